"""What leaves the house: models as ONNX graphs."""

from allegory.sharing.graph import Exported, export

__all__ = ["Exported", "export"]
