"""Text: how (query, title, summary) is formatted (`templates`) and turned into token ids (`encode`)."""
