//! What operators ask of all workers.

use super::{Command, WorkerHandle, Workers};
use crate::admin::{ConnectionInfo, TokenInfo};
use serde_json::Value;
use tokio::sync::oneshot;

impl Workers {
    /// Live connections of all workers.
    pub async fn connections(handles: Vec<WorkerHandle>) -> Vec<ConnectionInfo> {
        ask(&handles, Command::Connections).await.into_iter().flatten().collect()
    }

    /// Tokens of callers, as each worker remembers them.
    pub async fn tokens(handles: Vec<WorkerHandle>) -> Vec<TokenInfo> {
        ask(&handles, Command::Tokens).await.into_iter().flatten().collect()
    }

    /// Why a request was refused, by its decision's number. `None`: nobody remembers it.
    pub async fn explain(handles: Vec<WorkerHandle>, number: u64) -> Option<Value> {
        ask(&handles, |reply| Command::Explain(number, reply)).await.into_iter().flatten().next()
    }

    /// How many connections of peers and of the application still live.
    pub async fn live(&self) -> usize {
        ask(&self.handles, Command::Live).await.into_iter().sum()
    }
}

/// The answer of each; of one that is gone, nothing.
async fn ask<T: Default>(handles: &[WorkerHandle], question: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
    let mut answers = Vec::with_capacity(handles.len());
    for handle in handles {
        let (reply, answer) = oneshot::channel();
        handle.send(question(reply)).await;
        answers.push(answer.await.unwrap_or_default());
    }
    answers
}
