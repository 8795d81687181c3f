# %% [markdown]
# # language-model
