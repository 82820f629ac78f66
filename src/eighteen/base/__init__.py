"""What a run is, without a tensor in sight: stdlib, numpy and pydantic only; torch never."""
