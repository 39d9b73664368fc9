"""From a plan to arrays: tiles needed, decoding, assembly, policies. No torch."""
