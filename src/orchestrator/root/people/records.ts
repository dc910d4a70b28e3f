import type { Limits } from './may.ts'
import type { Grant } from './roles.ts'

/** What one organisation may want in all; without limit where absent. */
export interface Quota {
  services?: number
  instances?: number
  memoryMb?: number
  vcpus?: number
}

export interface Organisation {
  name: string
  /** Of apps: `acme` in shop.acme. Each belongs to at most one organisation. */
  namespaces: readonly string[]
  quota?: Quota
  /** All times are milliseconds since 1970. */
  createdAt: number
}

export interface User {
  name: string
  /** Whose administrators may give it a password and delete it; the administrator of the mesh when absent. */
  organisation?: string
  grants: readonly Grant[]
  password?: PasswordHash
  /** As whom an identity provider knows it: nobody else of that provider can become it. */
  oidc?: { issuer: string; subject: string }
  createdAt: number
}

/** Of argon2id; base64. */
export interface PasswordHash {
  salt: string
  hash: string
  memoryKib: number
  passes: number
  lanes: number
}

/** A token for programs (`hedgerow api-token`), or that of somebody who has logged in. Only its hash is kept. */
export interface UserToken {
  id: string
  /** `admin`: of the credential of the root. */
  user: string
  kind: 'token' | 'session'
  /** What it is for; for people. */
  name?: string
  hash: string
  limits?: Limits
  createdAt: number
  expiresAt: number
  /** About. */
  usedAt?: number
}

/** Who owns a cluster, and who may place on it beside its owner. It stays when the cluster is deleted: the name is theirs. */
export interface ClusterOwner {
  cluster: string
  organisation: string
  /** `*`: every organisation. */
  admits: readonly string[]
}
