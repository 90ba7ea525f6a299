"""Moving endpoints to Wasm step by step: who answers a request, and what is learnt from it."""
