"""Every private or version-dependent corner of timm, torch and accelerate that we touch, each a function of its own.

`tests/test_compat.py` has a test for each: when an upgrade breaks one, the test says which, and what to do.
"""

# timm: models and their registry ------------------------------------------------------------------------------------


# timm: dataset readers ----------------------------------------------------------------------------------------------


# torch: modules and state dicts -------------------------------------------------------------------------------------


# torch: optimisers and operators ------------------------------------------------------------------------------------


# torch: reading and exporting files ---------------------------------------------------------------------------------


# accelerate ---------------------------------------------------------------------------------------------------------
