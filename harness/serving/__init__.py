"""Model servers started and stopped by the harness."""
