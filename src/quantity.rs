//! Text and arithmetic of Kubernetes quantities (QTY).
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Quantity(String);
impl Quantity {
    pub fn round_up_to_milli(&self) -> Self {
        self.clone()
    }
}
