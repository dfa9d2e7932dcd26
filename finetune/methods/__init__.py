"""How a network is tuned: which parameters train, and what is exported. One class a method; nothing else asks which it
is."""
