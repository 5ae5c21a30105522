"""For `bench_gate`: what is known of the corpus, and the public checkers."""
