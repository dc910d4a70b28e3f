import { reasonOf, sentenceOf } from './sentence.ts'

/**
 * Every error that a user or a peer can cause, on one page, as the sentence people read: what is wrong, and where.
 * A bug (a broken invariant) is a plain `Error`, never one of these.
 *
 * `{key}` is a detail, `{a|b}` the first of them that is there, `[…]` is left out where a detail in it is missing. Of several
 * sentences the first counts whose details are all there. The detail `reason` follows behind a colon, then the cause;
 * `remedy` is a sentence of its own, on the next line; `faults` and `conflicts` are listed below. Any other detail that a
 * sentence does not name is for scripts (`-o json`) only.
 */
export const ERRORS = {
  // names and addresses
  NAME_INVALID: ['{name} is not a semantic name[, because of the label "{label}"]', 'not a semantic name'],
  ADDRESS_INVALID: ['{address} is not an address of the mesh', 'not an address of the mesh'],
  SERVICE_UNKNOWN: ['service {service} was not found', '{name} was not found', 'the service was not found'],
  APP_UNKNOWN: ['app {app} was not found', 'the app was not found'],
  REVISION_UNKNOWN: ['no such revision of service {service}', 'no such revision'],
  INSTANCE_UNKNOWN: ['instance {instance} was not found', 'the instance was not found'],
  NODE_UNKNOWN: ['node {node} was not found', 'the node was not found'],
  CLUSTER_UNKNOWN: ['cluster {cluster} was not found', 'the cluster was not found'],
  SECRET_UNKNOWN: ['secret {secret} was not found', 'the secret was not found'],
  ROUTE_UNKNOWN: ['there is nothing at {path}', 'there is nothing at this path'],
  METHOD_REFUSED: ['{method} does not work at {path}', 'the method does not work at this path'],
  PRECONDITION_FAILED: ['{service} has changed since it was read', 'it has changed since it was read'],
  KEY_REUSED: ['the idempotency key belongs to another request'],
  KEY_PENDING: ['the first request with this idempotency key has not been answered yet'],
  RATE_LIMITED: ['too many requests[; try again in {seconds} s]'],
  COMMAND_UNKNOWN: ['the command has ended'],
  VOLUME_UNKNOWN: ['volume {volume} was not found', 'the volume was not found'],
  VOLUME_IN_USE: ['volume {volume} is in use by {by}', 'the volume is in use'],
  RELAY_UNKNOWN: ['relay {relay} was not found', 'the relay was not found'],
  ORGANISATION_UNKNOWN: ['organisation {organisation} was not found', 'the organisation was not found'],
  USER_UNKNOWN: ['user {user} was not found', 'the user was not found'],
  API_TOKEN_UNKNOWN: ['API token {id} was not found', 'the API token was not found'],
  QUOTA_EXCEEDED: ['the organisation {organisation} would have more than its quota', 'the quota would be exceeded'],
  LOGIN_REFUSED: ['the user or the password is wrong'],
  OIDC_REFUSED: ['the login at {issuer} does not count here', 'the login does not count here'],
  OIDC_OFF: ['this root has no login by an identity provider'],
  PROVIDER_FAILED: ['the identity provider {issuer} does not answer as it should'],
  // flows
  NO_INSTANCE: ['no instance of {service} is running', 'no instance is running'],
  NO_PATH: ['no path to {node|address} works[; tried {tried}]', 'no path to the node works[; tried {tried}]'],
  PATH_FORBIDDEN: [
    'no permitted path to {node} is working[; the rule is "{paths}"][; tried {tried}]',
    'no permitted path to the node is working',
  ],
  NOT_ALLOWED: ['the caller is not allowed to call {service}', 'the caller is not allowed to call this service'],
  FLOW_REFUSED: ['every instance refused the connection'],
  FLOW_UNREACHABLE: ['no instance can be reached'],
  FLOW_TIMEOUT: ['no instance answered in time'],
  PORT_UNKNOWN: ['the service does not serve port {port}', 'the service does not serve this port'],
  PORT_TAKEN: ['port {port} is already in use', 'the port is already in use'],
  TOO_MANY_FLOWS: ['the flow limit is reached (agent.maxFlows)'],
  // tunnel
  FRAME_INVALID: ['malformed tunnel frame'],
  SESSION_CLOSED: ['the session with {node|peer} has ended', 'the session has ended'],
  PEER_REFUSED: [
    'the connection with {node} was refused[; {answered|principal} answered]',
    'the connection was refused[; {answered|principal} answered]',
  ],
  RELAY_REFUSED: ['relay {relay} refused the connection[ to {node}]', 'no relay accepted the connection[ to {node}]'],
  // control
  SLA_INVALID: ['invalid SLA document'],
  SLA_CONFLICT: ['the SLA document conflicts with what is already deployed'],
  MESSAGE_INVALID: [
    'malformed message from {peer|from}[: {problem}]',
    'malformed message: {problem}',
    'malformed message: {chars} characters, {most} are allowed',
    'malformed message',
  ],
  LINK_CLOSED: ['the control link to {peer|cluster|node|address} is down', 'the control link is down'],
  REQUEST_TIMEOUT: [
    'timed out waiting for {peer|path|name}[ to answer {request}][ after {ms} ms]',
    'timed out[ after {ms} ms]',
  ],
  REQUEST_FAILED: [
    '{peer|cluster|node|address} rejected the request[ with HTTP status {status}][ with code {code}]',
    'the request was rejected[ with HTTP status {status}][ with code {code}]',
  ],
  UNPLACEABLE: ['{job} does not run again now', '{instance} cannot be placed', 'the instance cannot be placed'],
  DRAIN_INCOMPLETE: ['{node} is not drained', 'the node is not drained'],
  RUNTIME_FAILED: ['the instance cannot start'],
  // identity
  TOKEN_INVALID: ['this {role} has not joined a mesh yet', 'not a valid join token'],
  TOKEN_REFUSED: ['the join token was refused'],
  CERTIFICATE_REFUSED: ['the certificate was refused'],
  UNAUTHENTICATED: [
    'no admin credential here: {missing} does not exist',
    'the credential is missing or wrong[: {path}]',
  ],
  FORBIDDEN: ['permission denied: {path}', 'these credentials do not allow this'],
  ROTATION_REFUSED: ['the certificate authority was not changed'],
  CLOCK_SKEW: ['the clock of this machine is {difference} of {of}', 'the clock of this machine is wrong'],
  DUPLICATE_IDENTITY: ['another process uses the identity of {principal|node}', 'another process uses this identity'],
  // the machine
  DISK_FULL: ['the disk that holds {path} is full', 'the disk is full'],
  CONFIG_INVALID: ['invalid configuration in {path}[, line {line}][: {problem}]', 'invalid configuration[: {problem}]'],
  STATE_UNREADABLE: ['the state cannot be used: {path|directory}', 'the state directory cannot be used'],
  STATE_CORRUPT: ['the saved state is damaged: {path}', 'the saved state is damaged[: unknown format {format}]'],
  LISTEN_FAILED: ['cannot listen on {address|path}[ by {protocol}]', 'cannot listen'],
  INTERCEPT_FAILED: ['cannot intercept connections in {mode} mode[: ip {route}]', 'cannot intercept connections'],
  NOT_RUNNING: [
    'the {starting} is starting',
    'cannot reach the {what} at {path|url|address}',
    'no lab called {lab} is running',
    'the {what} is not running',
    'cannot reach {address|url}',
    'nothing runs with the state directory {path}',
    'nothing answers',
  ],
  USAGE: [
    '{option} cannot be "{given}"',
    'unknown kind "{kind}"',
    'unknown host "{host}"',
    'cannot read {file}',
    '"{replicas}" is not a number of instances',
    '"{node}" is not the name of a node',
    '"{relay}" is not the name of a relay',
    '"{target}" is not NAME:PORT',
    '"{given}" is not a number',
    'the agent does not know the request {path}',
    '{reason}',
    'the command was not understood',
  ],
} as const satisfies Record<string, readonly string[]>

export type ErrorCode = keyof typeof ERRORS
export type Details = Readonly<Record<string, unknown>>

/** What to do about it, where the error itself does not bring a `remedy` of its own. */
export const REMEDIES: Partial<Record<ErrorCode, string>> = {
  NOT_RUNNING: 'Is it running, and with the same --state?',
  LISTEN_FAILED: 'Another program holds the port, or the address is not on this machine: choose another with --listen.',
  STATE_UNREADABLE:
    'Check that the directory exists, that you may write to it, and that its file system is not read-only.',
  STATE_CORRUPT: 'Nothing was overwritten. Restore the file from a backup, or move the directory away to start afresh.',
  TOKEN_INVALID: 'Create a new token with `hedgerow token create`, and copy all of it.',
  TOKEN_REFUSED: 'Create a new token with `hedgerow token create`: each works only once, and expires.',
  UNAUTHENTICATED:
    'The admin credential is the root’s <state>/root/admin.json: copy it here, or name it with --credential.',
  OIDC_OFF: 'Log in with --user and a password; the operator of the root sets root.oidc.issuer.',
  PROVIDER_FAILED: 'Try again later; the operator of the root checks root.oidc (docs/tenants.md).',
  INTERCEPT_FAILED: 'Host mode needs root or CAP_NET_ADMIN; loopback mode (the default) needs neither.',
  CLOCK_SKEW: 'Set the clock (`timedatectl set-ntp true`), then try again.',
  DISK_FULL: 'Free some space there; hedgerow then continues to write by itself.',
  DUPLICATE_IDENTITY:
    'Two machines run with copies of one state directory: stop one, empty its state, and join it with a new token.',
  SECRET_UNKNOWN: 'Run `hedgerow secret list` to see the secrets there are.',
  VOLUME_UNKNOWN: 'Run `hedgerow get volumes` to see the volumes there are.',
  VOLUME_IN_USE: 'Delete or move what uses it, then try again.',
  TOO_MANY_FLOWS: 'Raise agent.maxFlows.',
  REVISION_UNKNOWN: 'Run `hedgerow history SERVICE` to see the revisions there are.',
}

export class MeshError extends Error {
  readonly code: ErrorCode
  readonly details: Details

  /** `details` are the facts, never secrets; those that its sentence names are in `message`. */
  constructor(code: ErrorCode, details: Details = {}, options?: ErrorOptions) {
    super(sentenceOf(ERRORS[code], details), options)
    this.name = 'MeshError'
    this.code = code
    this.details = details
  }
}

/** One line for people: the sentence, then what caused it. */
export function explain(error: unknown): string {
  if (!(error instanceof MeshError)) return error instanceof Error ? error.message : String(error)
  const because = causeOf(error)
  return because === '' || error.message.endsWith(because) ? error.message : `${error.message}: ${because}`
}

/** The cause in words; empty where there is none. */
export function causeOf({ cause, message }: MeshError): string {
  if (cause === undefined) return ''
  return cause instanceof MeshError ? explain(cause) : reasonOf(cause, message)
}

export function isMeshError(error: unknown, code?: ErrorCode): error is MeshError {
  return error instanceof MeshError && (code === undefined || error.code === code)
}
