"""Stages and how they run. Imports the core only."""
