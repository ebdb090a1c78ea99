"""The silo's program: it trains at home, seals what it learned, and sends nothing else."""
