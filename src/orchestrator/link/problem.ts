import { ERRORS, explain, isMeshError, MeshError, REMEDIES, type ErrorCode } from '../../core/errors.ts'
import { STATUS_CODES } from '../../core/kit/node-http.ts'

/** What is wrong as HTTP says it: a status, and for `/v1` a body as in RFC 9457. */

export const PROBLEM_TYPE = 'application/problem+json'

const STATUS: Partial<Record<ErrorCode, number>> = {
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  TOKEN_REFUSED: 403,
  TOKEN_INVALID: 400,
  CERTIFICATE_REFUSED: 400,
  MESSAGE_INVALID: 400,
  USAGE: 400,
  ROUTE_UNKNOWN: 404,
  METHOD_REFUSED: 405,
  RATE_LIMITED: 429,
  PRECONDITION_FAILED: 412,
  KEY_REUSED: 422,
  KEY_PENDING: 409,
  SERVICE_UNKNOWN: 404,
  APP_UNKNOWN: 404,
  REVISION_UNKNOWN: 404,
  INSTANCE_UNKNOWN: 404,
  NODE_UNKNOWN: 404,
  CLUSTER_UNKNOWN: 404,
  RELAY_UNKNOWN: 404,
  SECRET_UNKNOWN: 404,
  VOLUME_UNKNOWN: 404,
  VOLUME_IN_USE: 409,
  COMMAND_UNKNOWN: 404,
  ORGANISATION_UNKNOWN: 404,
  USER_UNKNOWN: 404,
  API_TOKEN_UNKNOWN: 404,
  QUOTA_EXCEEDED: 409,
  LOGIN_REFUSED: 401,
  OIDC_REFUSED: 401,
  OIDC_OFF: 404,
  PROVIDER_FAILED: 503,
  SLA_INVALID: 422,
  SLA_CONFLICT: 409,
  UNPLACEABLE: 409,
  ROTATION_REFUSED: 409,
  LINK_CLOSED: 503,
  REQUEST_TIMEOUT: 504,
  DISK_FULL: 507,
}

/** The error that is told, and its status. What is no error of ours, and not the fault of who asked, is told without its message. */
export function refusalOf(error: unknown): { status: number; error: MeshError } {
  if (isMeshError(error)) return { status: STATUS[error.code] ?? 500, error }
  const status = (error as { statusCode?: number }).statusCode ?? 500
  const code: ErrorCode = status < 500 ? 'MESSAGE_INVALID' : 'REQUEST_FAILED'
  return { status, error: new MeshError(code, status < 500 ? { reason: explain(error) } : {}) }
}

export interface ProblemBody {
  type: string
  title: string
  status: number
  detail: string
  code: ErrorCode
  requestId?: string
  remedy?: string
  faults?: unknown[]
  warnings?: unknown[]
  details?: Record<string, unknown>
}

export function problemOf(given: unknown, requestId?: string): ProblemBody {
  const { status, error } = refusalOf(given)
  const { remedy = REMEDIES[error.code], faults, warnings, ...details } = error.details
  return {
    type: `urn:hedgerow:error:${error.code}`,
    title: titleOf(error.code, status),
    status,
    detail: explain(error),
    code: error.code,
    ...(requestId === undefined ? {} : { requestId }),
    ...(typeof remedy === 'string' ? { remedy } : {}),
    ...(Array.isArray(faults) ? { faults } : {}),
    ...(Array.isArray(warnings) ? { warnings } : {}),
    ...(Object.keys(details).length === 0 ? {} : { details }),
  }
}

/** The sentence of the error without its details; where it has none, what the status means. */
function titleOf(code: ErrorCode, status: number): string {
  const sentence = ERRORS[code].at(-1) ?? ''
  const plain = sentence.replace(/\[[^\]]*\]/g, '')
  return plain.includes('{') || code === 'USAGE' ? (STATUS_CODES[status] ?? 'Error') : plain
}
