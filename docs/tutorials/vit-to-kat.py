# %% [markdown]
# # vit-to-kat
