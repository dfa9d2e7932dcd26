"""Tuning methods: their trained parameters and exports, one class each. No other code depends on the method."""
