# %% [markdown]
# # second-order
