//! Text and arithmetic of Kubernetes quantities (QTY).
