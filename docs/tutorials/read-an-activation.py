# %% [markdown]
# # read-an-activation
