"""Differentially private training: sampler, noise, engine, preflight. The only place that imports Opacus."""
