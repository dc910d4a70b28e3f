import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Configuration } from 'openid-client'
import { MeshError } from '../../../core/errors.ts'
import { BoundedMap } from '../../../core/kit/bounded-map.ts'
import type { Clock } from '../../../core/kit/clock.ts'
import { TokenBucket } from '../../../core/kit/token-bucket.ts'
import type { RootStore } from '../root-store.ts'
import { decideUser, type Claims, type OidcMapping } from './oidc-user.ts'
import type { People } from './people.ts'
import type { User } from './records.ts'

/*
 * Login by OpenID Connect: the authorization code with PKCE (RFC 7636), state and nonce; `openid-client` does and checks all of it.
 *
 *     begin ─▶ the address of the provider ┄ somebody logs in there ┄▶ back, with code and state
 *     finish: what was begun, once ─▶ code for an ID token ─▶ signature, issuer, audience, times, nonce ─▶ who that is here (oidc-user.ts)
 *
 * Whoever finishes has to know the secret of who began: the state alone, which the provider and the browser see, is not enough.
 */

export interface OidcOptions extends OidcMapping {
  issuer: string
  clientId: string
  /** Read at each discovery; none for a public client. */
  clientSecretFile?: string
  scopes: readonly string[]
}

/** Somebody types a password and a second factor meanwhile. Smaller refuses the slow, larger remembers more. */
const PENDING_MS = 10 * 60_000
const MOST_PENDING = 10_000
/** From one address. */
const BEGUN = { perSecond: 0.5, burst: 30 }
/** Of the provider: smaller asks it more often, larger notices later that its addresses have changed. */
const DISCOVERED_MS = 60 * 60_000
const TIMEOUT_SECONDS = 10

interface Pending {
  redirect: string
  state: string
  nonce: string
  verifier: string
  until: number
}

export interface Begun {
  /** The secret with which it is finished. */
  login: string
  /** Where somebody logs in. */
  url: string
  expiresAt: number
}

export class Oidc {
  readonly #options: OidcOptions
  readonly #people: People
  readonly #users: RootStore['users']
  readonly #clock: Clock
  /** By the hash of their secret. */
  readonly #pending: BoundedMap<string, Pending>
  readonly #byAddress: BoundedMap<string, TokenBucket>
  #provider: { config: Promise<Configuration>; until: number } | undefined

  constructor(options: OidcOptions, { people, store, clock }: { people: People; store: RootStore; clock: Clock }) {
    this.#options = options
    this.#people = people
    this.#users = store.users
    this.#clock = clock
    this.#pending = new BoundedMap(MOST_PENDING, ({ until }) => until <= clock.now())
    this.#byAddress = new BoundedMap(MOST_PENDING, (bucket) => bucket.isFull)
  }

  get issuer(): string {
    return this.#options.issuer
  }

  /** @throws MeshError RATE_LIMITED, PROVIDER_FAILED */
  async begin({ redirect, from }: { redirect: string; from: string }): Promise<Begun> {
    const bucket = this.#byAddress.getOrCreate(from, () => new TokenBucket({ ...BEGUN, now: () => this.#clock.now() }))
    if (!bucket.tryTake()) throw new MeshError('RATE_LIMITED', { seconds: 2 })
    const client = await import('openid-client')
    const config = await this.#discovered()
    const pending: Pending = {
      redirect,
      state: client.randomState(),
      nonce: client.randomNonce(),
      verifier: client.randomPKCECodeVerifier(),
      until: this.#clock.now() + PENDING_MS,
    }
    const url = client.buildAuthorizationUrl(config, {
      redirect_uri: redirect,
      scope: this.#options.scopes.join(' '),
      code_challenge: await client.calculatePKCECodeChallenge(pending.verifier),
      code_challenge_method: 'S256',
      state: pending.state,
      nonce: pending.nonce,
    })
    const login = randomBytes(32).toString('base64url')
    this.#pending.set(hashOf(login), pending)
    return { login, url: url.href, expiresAt: this.#clock.wall() + PENDING_MS }
  }

  /** `answer`: the query with which the provider sent the browser back. @throws MeshError OIDC_REFUSED, PROVIDER_FAILED, DISK_FULL */
  async finish({ login, answer }: { login: string; answer: string }): Promise<User> {
    const key = hashOf(login)
    const pending = this.#pending.get(key)
    this.#pending.delete(key) // whatever follows: it counts once
    if (pending === undefined || pending.until <= this.#clock.now())
      throw this.#refused('it was not begun here, took too long, or was finished already', 'Begin again.')
    const { subject, claims } = await this.#answered(pending, answer)
    const { issuer } = this.#options
    const decision = decideUser({ issuer, subject, claims }, this.#options, this.#users.list())
    if (decision.kind === 'refused') {
      const { user, reason, remedy } = decision
      if (user !== undefined) this.#people.putUser({ ...user, grants: [] })
      throw this.#refused(reason, remedy)
    }
    return this.#written(decision.user, decision.isNew)
  }

  #written(user: Omit<User, 'createdAt'>, isNew: boolean): User {
    try {
      return isNew ? this.#people.createUser(user) : this.#people.putUser({ ...this.#people.user(user.name), ...user })
    } catch (cause) {
      if (!(cause instanceof MeshError) || cause.code !== 'ORGANISATION_UNKNOWN') throw cause
      const { organisation } = cause.details
      throw this.#refused(
        `root.oidc names the organisation ${String(organisation)}, which does not exist`,
        'The administrator of the mesh creates it (`hedgerow org create`).',
      )
    }
  }

  async #answered(
    { redirect, state, nonce, verifier }: Pending,
    answer: string,
  ): Promise<{ subject: string; claims: Claims }> {
    const client = await import('openid-client')
    const config = await this.#discovered()
    try {
      const tokens = await client.authorizationCodeGrant(config, new URL(`${redirect}?${answer.replace(/^\?/, '')}`), {
        pkceCodeVerifier: verifier,
        expectedState: state,
        expectedNonce: nonce,
        idTokenExpected: true,
      })
      const claims: Claims = tokens.claims() ?? {}
      const subject = String(claims['sub'])
      const { userClaim, groupsClaim, roles } = this.#options
      const wanted = roles.length === 0 ? [userClaim] : [userClaim, groupsClaim]
      const isTold = wanted.every((claim) => claims[claim] !== undefined)
      if (isTold || config.serverMetadata().userinfo_endpoint === undefined) return { subject, claims }
      const further = await client.fetchUserInfo(config, tokens.access_token, subject)
      return { subject, claims: { ...further, ...claims } }
    } catch (cause) {
      throw this.#told(cause, client)
    }
  }

  /** Together with whoever waits for the same; a failure is not remembered. */
  #discovered(): Promise<Configuration> {
    if (this.#provider !== undefined && this.#provider.until > this.#clock.now()) return this.#provider.config
    const provider = { config: this.#discover(), until: this.#clock.now() + DISCOVERED_MS }
    this.#provider = provider
    provider.config.catch(() => {
      if (this.#provider === provider) this.#provider = undefined
    })
    return provider.config
  }

  async #discover(): Promise<Configuration> {
    const client = await import('openid-client')
    const { issuer, clientId, clientSecretFile } = this.#options
    const secret = clientSecretFile === undefined ? undefined : secretIn(clientSecretFile)
    const secure = issuer.startsWith('http:') ? [client.allowInsecureRequests] : [] // of this machine only (config/shapes.ts)
    try {
      const found = await client.discovery(new URL(issuer), clientId, undefined, client.None(), {
        execute: secure,
        timeout: TIMEOUT_SECONDS,
      })
      const metadata = found.serverMetadata()
      const takesPost = metadata.token_endpoint_auth_methods_supported?.includes('client_secret_post') === true
      const known = takesPost ? client.ClientSecretPost : client.ClientSecretBasic
      const proof = secret === undefined ? client.None() : known(secret)
      const config = new client.Configuration(metadata, clientId, {}, proof)
      config.timeout = TIMEOUT_SECONDS
      client.enableNonRepudiationChecks(config) // the signature of the ID token, too
      for (const each of secure) each(config)
      return config
    } catch (cause) {
      throw this.#failed(cause)
    }
  }

  /** What the library found, as ours: who is refused, and what is the fault of the provider or of the configuration. */
  #told(cause: unknown, client: typeof import('openid-client')): MeshError {
    if (cause instanceof client.AuthorizationResponseError)
      return this.#refused(`the provider says ${saidBy(cause)}`, 'Try again, or ask whoever runs the provider.', cause)
    if (cause instanceof client.ResponseBodyError)
      return cause.error === 'invalid_grant'
        ? this.#refused(`the provider says ${saidBy(cause)}`, 'Begin again.', cause)
        : this.#failed(cause, `it says ${saidBy(cause)}`)
    if (cause instanceof client.ClientError && /^OAUTH_(INVALID_RESPONSE|JWT_|KEY_SELECTION)/.test(cause.code ?? ''))
      return this.#refused(`its answer is not valid: ${wordsOf(cause)}`, 'Begin again.', cause)
    return this.#failed(cause)
  }

  #refused(reason: string, remedy: string, cause?: unknown): MeshError {
    return new MeshError('OIDC_REFUSED', { issuer: this.#options.issuer, reason, remedy }, { cause })
  }

  #failed(cause: unknown, reason?: string): MeshError {
    if (cause instanceof MeshError) return cause
    return new MeshError(
      'PROVIDER_FAILED',
      { issuer: this.#options.issuer, reason: reason ?? wordsOf(cause) },
      { cause },
    )
  }
}

/** @throws MeshError CONFIG_INVALID */
export function secretIn(path: string): string {
  let text: string
  try {
    text = readFileSync(path, 'utf8').trim()
  } catch (cause) {
    throw new MeshError('CONFIG_INVALID', { problem: `root.oidc.clientSecretFile: ${path} cannot be read` }, { cause })
  }
  if (text !== '') return text
  throw new MeshError('CONFIG_INVALID', { problem: `root.oidc.clientSecretFile: ${path} is empty` })
}

function saidBy({ error, error_description: description }: { error: string; error_description?: string }): string {
  return (description === undefined ? error : `${error}: ${description}`).slice(0, 300)
}

/** With the innermost cause, which says most. */
function wordsOf(error: unknown): string {
  const words: string[] = []
  for (let at = error; at instanceof Error && words.length < 4; at = at.cause)
    if (at.message !== '') words.push(at.message)
  return [...new Set(words)].join(': ').slice(0, 300)
}

function hashOf(login: string): string {
  return createHash('sha256').update(login).digest('base64')
}
