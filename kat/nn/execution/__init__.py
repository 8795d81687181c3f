"""How GR-KAN layers run: of which modules a layer is the formula, fused, and in blocks of rows."""
