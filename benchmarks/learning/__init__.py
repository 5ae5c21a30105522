"""The learning experiment: the product's trainer, aggregation and evaluation in simulated time."""
