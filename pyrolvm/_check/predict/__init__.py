"""What a posterior says of data that it has not seen."""

from pyrolvm._check.predict.inference import predict

__all__ = ["predict"]
