"""The four heart-disease hospitals: data with attribution, the demo's job, its baselines and its benchmark."""
