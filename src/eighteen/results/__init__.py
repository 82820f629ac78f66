"""What people see and use: the terminal, TensorBoard, evaluation tables, predictions."""
