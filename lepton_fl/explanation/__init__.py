"""Explanation: what a model looks at, by integrated gradients; of many records under noise, of one on the site."""
