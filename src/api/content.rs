//! The bytes of an artifact, whole or in part (RFC 9110, section 14).

use super::Api;
use super::artifacts::within_scope;
use super::auth::Caller;
use super::error::ApiError;
use super::input::Segments;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Bytes of one read. Large enough that a read costs more than its thread's wake-up. Chosen, not measured.
const CHUNK_BYTES: usize = 256 << 10;

pub async fn read(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let owner = caller.artifact_owner();
    let wanted = reference.clone();
    let (artifact, file) =
        api.blocking(move |_| caller.artifacts.content(owner, &wanted)).await??;
    within_scope(caller.scope.as_ref(), &artifact, reference)?;
    let size = artifact.size;
    let part = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        None => Part::Whole,
        Some(range) => parse_range(range, size),
    };
    let broken = |error: std::io::Error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("read content: {error}"),
        )
    };
    let mut file = tokio::fs::File::from_std(file);
    let (status, start, length) = match part {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Slice { start, length } => {
            file.seek(SeekFrom::Start(start)).await.map_err(broken)?;
            (StatusCode::PARTIAL_CONTENT, start, length)
        }
        Part::Unsatisfiable => {
            let error = ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range-not-satisfiable",
                format!("the content has {size} bytes, and the range lies behind them"),
            );
            return Ok(
                ([(header::CONTENT_RANGE, format!("bytes */{size}"))], error).into_response()
            );
        }
    };
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK_BYTES));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    let mut response = (status, headers, body).into_response();
    if let Some(digest) = artifact.digest {
        let tag = format!("\"{digest}\"").parse().expect("hexadecimal digits are a header value");
        response.headers_mut().insert(header::ETAG, tag);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length - 1);
        let range = range.parse().expect("digits and ASCII signs are a header value");
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Slice { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range; several, or one that is not understood, mean the whole, as the RFC allows.
fn parse_range(text: &str, size: u64) -> Part {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|spec| spec.split_once('-'))
    else {
        return Part::Whole;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(start), _) if start >= size => Part::Unsatisfiable,
        (Ok(start), Ok(end)) if end >= start => {
            Part::Slice { start, length: end.min(size - 1) - start + 1 }
        }
        (Ok(start), Err(_)) if last.trim().is_empty() => {
            Part::Slice { start, length: size - start }
        }
        (Err(_), Ok(0)) if first.trim().is_empty() => Part::Unsatisfiable,
        (Err(_), Ok(_)) if first.trim().is_empty() && size == 0 => Part::Unsatisfiable,
        (Err(_), Ok(count)) if first.trim().is_empty() => {
            let length = count.min(size);
            Part::Slice { start: size - length, length }
        }
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let slice = |start, length| Part::Slice { start, length };
        for (text, expected) in [
            ("bytes=0-0", slice(0, 1)),
            ("bytes=2-4", slice(2, 3)),
            ("bytes=2-", slice(2, 8)),
            ("bytes=-3", slice(7, 3)),
            ("bytes=-99", slice(0, 10)),
            ("bytes=5-99", slice(5, 5)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=4-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=", Part::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(parse_range("bytes=-1", 0), Part::Unsatisfiable);
    }
}
