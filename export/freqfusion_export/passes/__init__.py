# SPDX-License-Identifier: Apache-2.0
"""Graph passes, one per file; each does one thing, and a second run changes nothing.

They use onnx-ir rather than onnx-graphsurgeon: graphsurgeon 0.6.1 loses the model's metadata_props on import and
export, and with them the manifest. (Function bodies and their attribute references survive.)
"""
