"""Any model to a quantized GGUF: recipes, importance matrices, size budgets, the job, and what it cost in quality."""
