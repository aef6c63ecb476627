"""How a trained network leaves torch: ONNX and OpenVINO."""
