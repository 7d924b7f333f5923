//! Calls about clean-up and verification.

use super::{Client, ClientError, encode};
use crate::model::id::{PlanId, PolicyName};
use crate::wire::cleanup::{Plan, PlanList, PlanRequest, Policy, PolicyList, PolicyRequest};
use crate::wire::verify::{VerifyReport, VerifyRequest};
use hyper::Method;
use hyper::body::Bytes;

impl Client {
    /// Takes as long as looking through the artifacts does.
    pub async fn plan_cleanup(&self, request: &PlanRequest) -> Result<Plan, ClientError> {
        let doing = "making a clean-up plan";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/cleanup/plans", body).await?;
        self.json(doing, answer).await
    }

    pub async fn cleanup_plans(&self) -> Result<PlanList, ClientError> {
        self.get("listing clean-up plans", "/v1/cleanup/plans").await
    }

    pub async fn cleanup_plan(&self, id: PlanId) -> Result<Plan, ClientError> {
        self.get("showing a clean-up plan", &format!("/v1/cleanup/plans/{id}")).await
    }

    /// Takes as long as the plan is.
    pub async fn apply_cleanup(&self, id: PlanId) -> Result<Plan, ClientError> {
        let doing = "applying a clean-up plan";
        let path = format!("/v1/cleanup/plans/{id}/apply");
        let answer = self.exchange(doing, Method::POST, &path, Bytes::new()).await?;
        self.json(doing, answer).await
    }

    /// One part; a large content takes its time.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, ClientError> {
        let doing = "verifying artifacts";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/artifacts/verify", body).await?;
        self.json(doing, answer).await
    }

    pub async fn policies(&self) -> Result<PolicyList, ClientError> {
        self.get("listing clean-up policies", "/v1/cleanup/policies").await
    }

    pub async fn set_policy(
        &self,
        name: &PolicyName,
        request: &PolicyRequest,
    ) -> Result<Policy, ClientError> {
        let path = format!("/v1/cleanup/policies/{name}");
        self.send("setting a clean-up policy", Method::PUT, &path, request).await
    }

    pub async fn remove_policy(&self, name: &PolicyName) -> Result<(), ClientError> {
        self.delete("removing a clean-up policy", &format!("/v1/cleanup/policies/{name}")).await
    }
}
