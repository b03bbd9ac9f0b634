//! The embedded audit: each decision is an event with the target `coord_global::audit`, in fields.
//!
//! A token is named by its label and by the first 8 digits of its hash. On whose behalf something
//! was changed stands in the span that the caller opened around the call.

use super::error::{AUDIT, Refused, UsersError};
use super::grant::Grant;
use super::identity::Identity;
use super::token::{Token, TokenId, TokenLabel};
use super::user::UserId;

/// Somebody was let in, after a look at the users.
pub(super) fn accepted(identity: &Identity) {
    tracing::info!(
        target: AUDIT,
        decision = "authenticated",
        user = %identity.user(),
        label = %identity.label(),
        token = identity.token().short(),
    );
}

/// Somebody was let in by what was known, so often that only who asks for it is told.
pub(super) fn accepted_from_memory(identity: &Identity, out_of_reach: bool) {
    tracing::debug!(
        target: AUDIT,
        decision = "authenticated",
        user = %identity.user(),
        label = %identity.label(),
        token = identity.token().short(),
        from_memory = true,
        out_of_reach,
    );
}

/// Somebody was not let in. What is known of the token is told: nothing of one that is not known.
pub(super) fn refused(why: Refused, token: Option<&TokenId>, known: Option<(&UserId, &TokenLabel)>) {
    tracing::warn!(
        target: AUDIT,
        decision = "refused",
        why = why.as_str(),
        user = known.map(|(user, _)| user.as_str()),
        label = known.map(|(_, label)| label.as_str()),
        token = token.map(TokenId::short),
    );
}

/// Somebody was not let in, since nobody could be asked.
pub(super) fn out_of_reach(token: &TokenId, error: &UsersError) {
    tracing::warn!(
        target: AUDIT,
        decision = "refused",
        why = "out_of_reach",
        token = token.short(),
        error = %error,
    );
}

/// A user was made, deleted, disabled or enabled.
pub(super) fn user(decision: &'static str, user: &UserId) {
    tracing::info!(target: AUDIT, decision, user = %user);
}

/// A token was made.
pub(super) fn issued(token: &Token) {
    tracing::info!(
        target: AUDIT,
        decision = "token_issued",
        user = %token.user,
        label = %token.label,
        token = token.id.short(),
        expires_at_ms = token.expires_at_ms,
    );
}

/// A token was revoked.
pub(super) fn revoked(id: &TokenId, known: Option<&Token>) {
    tracing::info!(
        target: AUDIT,
        decision = "token_revoked",
        user = known.map(|token| token.user.as_str()),
        label = known.map(|token| token.label.as_str()),
        token = id.short(),
    );
}

/// A user was granted something, or no longer is.
pub(super) fn granted(decision: &'static str, grant: &Grant) {
    tracing::info!(
        target: AUDIT,
        decision,
        user = %grant.user(),
        spaces = %grant.spaces(),
        prefix = grant.prefix().as_str(),
        role = %grant.role(),
    );
}
