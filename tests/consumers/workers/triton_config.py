"""Reads config.pbtxt with the schema of Triton's own client library, and prints it as JSON.

python triton_config.py config.pbtxt
"""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

config = text_format.Parse(Path(sys.argv[1]).read_text("utf-8"), ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None))
