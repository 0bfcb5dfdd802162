//! What containerd's store of content says of images on their way. No other runtime has one: who asks it is told that the
//! call is not served.

use tonic::metadata::MetadataValue;
use tonic::{Request, Response};

use super::{ANSWER, Call, CallError, Client, content};

/// What belongs to CRI, in containerd.
const NAMESPACE: &str = "k8s.io";
/// Blobs of a list that are read, at most.
const MOST: usize = 20_000;

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

impl Client {
    /// All blobs that are on their way.
    pub async fn blobs_underway(&self) -> Result<Vec<content::Status>, CallError> {
        let mut content = self.content.clone();
        let asked = content.list_statuses(request(content::ListStatusesRequest::default()));
        Ok(self.call(Call::ListStatuses, ANSWER, asked).await?.statuses)
    }

    /// The blobs that pass a filter of containerd.
    pub async fn blobs(&self, filter: String) -> Result<Vec<content::Info>, CallError> {
        let mut content = self.content.clone();
        let asked = async {
            let filters = vec![filter];
            let mut stream = content.list(request(content::ListContentRequest { filters })).await?.into_inner();
            let mut all = Vec::new();
            while let Some(some) = stream.message().await? {
                all.extend(some.info);
                if all.len() > MOST {
                    break;
                }
            }
            Ok(Response::new(all))
        };
        self.call(Call::ListContent, ANSWER, asked).await
    }

    /// One blob, if it is there.
    pub async fn blob(&self, digest: &str) -> Result<Option<content::Info>, CallError> {
        let mut content = self.content.clone();
        let asked = content.info(request(content::InfoRequest { digest: digest.to_owned() }));
        match self.call(Call::Info, ANSWER, asked).await {
            Err(error) if error.is_gone() => Ok(None),
            answer => Ok(answer?.info),
        }
    }

    /// The first bytes of a blob, `limit` of them at most.
    pub async fn read_blob(&self, digest: &str, limit: u64) -> Result<Vec<u8>, CallError> {
        let mut content = self.content.clone();
        let asked = async {
            let message = content::ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
            let mut stream = content.read(request(message)).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(some) = stream.message().await? {
                bytes.extend(some.data);
                if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
                    break;
                }
            }
            Ok(Response::new(bytes))
        };
        self.call(Call::ReadContent, ANSWER, asked).await
    }
}
