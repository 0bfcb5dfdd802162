//! The expression language of `resourcesPolicy` (EXPR).
