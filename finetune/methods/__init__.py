"""Tuning methods: their trained parameters and exports, one class each. Nothing else asks which method is used."""
