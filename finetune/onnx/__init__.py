"""A trained model as ONNX files, for browsers and other runtimes that do not have PyTorch."""
