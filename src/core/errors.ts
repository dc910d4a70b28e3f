/**
 * Every error a user or a peer can cause, on one page. The message is the fixed sentence, `details` are the facts,
 * `cause` is the original. A bug (a broken invariant) is a plain `Error`, never one of these.
 */
export const ERRORS = {
  // names and addresses
  NAME_INVALID: 'not a semantic name',
  ADDRESS_INVALID: 'not an address of the mesh',
  SERVICE_UNKNOWN: 'no such service',
  APP_UNKNOWN: 'no such app',
  INSTANCE_UNKNOWN: 'no such instance',
  NODE_UNKNOWN: 'no such node',
  CLUSTER_UNKNOWN: 'no such cluster',
  // flows
  NO_INSTANCE: 'no running instance to choose from',
  NO_PATH: 'no way to reach the node',
  PATH_FORBIDDEN: 'no path to the node is allowed and works',
  NOT_ALLOWED: 'the caller may not call this service',
  FLOW_REFUSED: 'every instance refused the flow',
  FLOW_UNREACHABLE: 'no instance can be reached',
  FLOW_TIMEOUT: 'no instance answered in time',
  PORT_UNKNOWN: 'the service does not serve this port',
  PORT_TAKEN: 'the port is already taken on this address',
  TOO_MANY_FLOWS: 'the agent carries as many flows as it may',
  // tunnel
  FRAME_INVALID: 'malformed tunnel frame',
  SESSION_CLOSED: 'the session to the node has ended',
  PEER_REFUSED: 'the peer did not prove the expected identity',
  RELAY_REFUSED: 'the relay refused the connection',
  // control
  SLA_INVALID: 'the SLA has faults',
  SLA_CONFLICT: 'the SLA conflicts with what is already there',
  MESSAGE_INVALID: 'malformed control message',
  LINK_CLOSED: 'the control link is down',
  REQUEST_TIMEOUT: 'the other side did not answer in time',
  REQUEST_FAILED: 'the other side could not do what was asked',
  UNPLACEABLE: 'no node can take the instance',
  RUNTIME_FAILED: 'the runtime could not start the instance',
  // identity
  TOKEN_INVALID: 'not a join token',
  TOKEN_REFUSED: 'the join token was refused',
  CERTIFICATE_REFUSED: 'the certificate request was refused',
  UNAUTHENTICATED: 'credentials are missing or wrong',
  FORBIDDEN: 'these credentials do not allow this',
  CLOCK_SKEW: 'the clock of this machine is wrong',
  DUPLICATE_IDENTITY: 'another process uses this identity',
  // the machine
  DISK_FULL: 'the disk is full',
  CONFIG_INVALID: 'the configuration has faults',
  STATE_UNREADABLE: 'the state directory cannot be used',
  STATE_CORRUPT: 'the saved state is damaged',
  LISTEN_FAILED: 'cannot listen on the address',
  INTERCEPT_FAILED: 'cannot intercept connections',
  NOT_RUNNING: 'nothing answers there',
  USAGE: 'the command was not understood',
} as const

export type ErrorCode = keyof typeof ERRORS
export type Details = Readonly<Record<string, unknown>>

export class MeshError extends Error {
  readonly code: ErrorCode
  readonly details: Details

  constructor(code: ErrorCode, details: Details = {}, options?: ErrorOptions) {
    super(ERRORS[code], options)
    this.name = 'MeshError'
    this.code = code
    this.details = details
  }
}

/** One line for people: the sentence, then the facts. Secrets never belong in `details`. */
export function explain(error: unknown): string {
  if (error instanceof MeshError) {
    const facts = Object.entries(error.details)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    const because = error.cause === undefined ? '' : `: ${explain(error.cause)}`
    return facts.length === 0 ? `${error.message}${because}` : `${error.message} (${facts.join(', ')})${because}`
  }
  return error instanceof Error ? error.message : String(error)
}

export function isMeshError(error: unknown, code?: ErrorCode): error is MeshError {
  return error instanceof MeshError && (code === undefined || error.code === code)
}
