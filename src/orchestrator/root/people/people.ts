import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { MeshError } from '../../../core/errors.ts'
import type { Clock } from '../../../core/kit/clock.ts'
import { clusterOf } from '../../../core/model/ids.ts'
import { labelFault } from '../../../core/model/label.ts'
import type { RootStore } from '../root-store.ts'
import { may, type Caller, type Limits, type Thing } from './may.ts'
import type { ClusterOwner, Organisation, Quota, User, UserToken } from './records.ts'
import type { Grant } from './roles.ts'

/** The name of whoever holds the credential of the root; no user has it. */
export const ADMIN = 'admin'
const ADMINISTRATOR: readonly Grant[] = [{ role: 'administrator' }]

/** Of one user: who logs in again and again ends the oldest. */
const MOST_SESSIONS = 20
const MOST_TOKENS = 200
/** When a token was used is written this often at most. */
const USED_MS = 60 * 60_000

const TOKEN = /^hedgerow-(?:api|session)\.([0-9a-f]{16})\.[A-Za-z0-9_-]{43}$/

/** Organisations, users, their tokens, and who owns which cluster. What may be done is decided in may.ts. */
export class People {
  readonly #store: RootStore
  readonly #clock: Clock
  /** By namespace. */
  #owners: ReadonlyMap<string, string> | undefined
  #revision = 0
  readonly #listeners = new Set<() => void>()

  constructor(store: RootStore, clock: Clock) {
    this.#store = store
    this.#clock = clock
    store.database.onRollback(() => this.#changed())
  }

  /** Grows whenever somebody may do something else than before. */
  get revision(): number {
    return this.#revision
  }

  /** Each time, until what it returns is disposed of. */
  onChanged(act: () => void): Disposable {
    const listener = () => act() // one of its own for each
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) }
  }

  // whose is what

  organisationOf(namespace: string): string | undefined {
    this.#owners ??= new Map(
      this.#store.organisations
        .list()
        .flatMap(({ name, namespaces }) => namespaces.map((each) => [each, name] as const)),
    )
    return this.#owners.get(namespace)
  }

  /** `named`: an app, a service, an instance or a secret, each of which begins with `app.namespace`. */
  app(named: string): Thing {
    const [app = '', namespace = ''] = named.toLowerCase().split('.', 2)
    return { kind: 'app', app: `${app}.${namespace}`, organisation: this.organisationOf(namespace) }
  }

  cluster(name: string): Thing & { kind: 'cluster' } {
    const record = this.#store.clusterOwners.get(name)
    return { kind: 'cluster', owner: record?.organisation, admits: record?.admits ?? [] }
  }

  node(id: string): Thing {
    return this.cluster(clusterOf(id))
  }

  /** All of it. */
  get ownership(): unknown {
    const organisations = this.#store.organisations.list().map(({ name, namespaces }) => [name, namespaces])
    return [organisations, this.#store.clusterOwners.list()]
  }

  // who asks

  admin(): Caller {
    return { user: ADMIN, id: ADMIN, by: 'credential', grants: ADMINISTRATOR }
  }

  /** By a token of a user; `undefined` when there is no such token, or it has expired. */
  callerOf(token: string): Caller | undefined {
    const [, id] = TOKEN.exec(token) ?? []
    const record = id === undefined ? undefined : this.#store.userTokens.get(id)
    if (record === undefined || !timingSafeEqual(Buffer.from(record.hash, 'hex'), hashOf(token))) return undefined
    return this.#caller(record)
  }

  /** As the caller is now: whoever may do nothing any more is `undefined`. */
  again({ id, by }: Caller): Caller | undefined {
    if (by === 'credential') return this.admin()
    const record = this.#store.userTokens.get(id)
    return record === undefined ? undefined : this.#caller(record)
  }

  #caller({ id, user, kind, limits, expiresAt }: UserToken): Caller | undefined {
    if (expiresAt <= this.#clock.wall()) return undefined
    const grants = user === ADMIN ? ADMINISTRATOR : this.#store.users.get(user)?.grants
    return grants && { user, id, by: kind, grants, ...(limits === undefined ? {} : { limits }) }
  }

  /** For the list of tokens. Never throws: on a full disk those who ask are answered all the same. */
  used({ id, by }: Caller): void {
    if (by === 'credential') return
    const record = this.#store.userTokens.get(id)
    const now = this.#clock.wall()
    if (record === undefined || now - (record.usedAt ?? 0) < USED_MS) return
    try {
      this.#store.userTokens.put(id, { ...record, usedAt: now })
    } catch {
      // the next request tries again
    }
  }

  // organisations

  /** @throws MeshError ORGANISATION_UNKNOWN */
  organisation(name: string): Organisation {
    const found = this.#store.organisations.get(name)
    if (found === undefined) throw new MeshError('ORGANISATION_UNKNOWN', { organisation: name.slice(0, 100) })
    return found
  }

  /** @throws MeshError USAGE when it exists, or a namespace belongs to another */
  createOrganisation(
    name: string,
    { namespaces, quota }: { namespaces: readonly string[]; quota?: Quota },
  ): Organisation {
    checkName(name)
    if (this.#store.organisations.get(name) !== undefined)
      throw new MeshError('USAGE', { reason: `there is an organisation ${name} already` })
    return this.#putOrganisation({
      name,
      namespaces,
      ...(quota === undefined ? {} : { quota }),
      createdAt: this.#clock.wall(),
    })
  }

  /** @throws MeshError ORGANISATION_UNKNOWN, USAGE */
  changeOrganisation(name: string, change: { namespaces?: readonly string[]; quota?: Quota }): Organisation {
    return this.#putOrganisation({ ...this.organisation(name), ...change })
  }

  #putOrganisation(given: Organisation): Organisation {
    const namespaces = [...new Set(given.namespaces)].sort()
    for (const namespace of namespaces) {
      checkName(namespace)
      const owner = this.organisationOf(namespace)
      if (owner !== undefined && owner !== given.name)
        throw new MeshError('USAGE', { reason: `the namespace ${namespace} belongs to the organisation ${owner}` })
    }
    const organisation = { ...given, namespaces }
    this.#store.organisations.put(organisation.name, organisation)
    this.#changed()
    return organisation
  }

  /** @throws MeshError ORGANISATION_UNKNOWN, USAGE while something belongs to it */
  deleteOrganisation(name: string): void {
    const { namespaces } = this.organisation(name)
    const { apps, users, clusterOwners } = this.#store
    const left = [
      ...apps
        .list()
        .flatMap(({ app, namespace }) => (namespaces.includes(namespace) ? [`app ${app}.${namespace}`] : [])),
      ...users.list().flatMap((user) => (belongsTo(user, name) ? [`user ${user.name}`] : [])),
      ...clusterOwners
        .list()
        .flatMap(({ cluster, organisation }) => (organisation === name ? [`cluster ${cluster}`] : [])),
    ]
    if (left.length > 0)
      throw new MeshError('USAGE', {
        reason: `the organisation ${name} has ${left.slice(0, 5).join(', ')}${left.length > 5 ? ' and others' : ''}`,
        remedy: 'Delete these, or give them to another organisation, first.',
      })
    this.#store.database.transaction(() => {
      this.#store.organisations.delete(name)
      for (const owner of clusterOwners.list())
        if (owner.admits.includes(name))
          clusterOwners.put(owner.cluster, { ...owner, admits: owner.admits.filter((each) => each !== name) })
    })
    this.#changed()
  }

  // users

  /** @throws MeshError USER_UNKNOWN */
  user(name: string): User {
    const found = this.#store.users.get(name)
    if (found === undefined) throw new MeshError('USER_UNKNOWN', { user: name.slice(0, 100) })
    return found
  }

  /** @throws MeshError USAGE */
  createUser(user: Omit<User, 'createdAt'>): User {
    checkName(user.name)
    if (user.name === ADMIN)
      throw new MeshError('USAGE', { reason: `${ADMIN} is who holds the credential of the root` })
    if (this.#store.users.get(user.name) !== undefined)
      throw new MeshError('USAGE', { reason: `there is a user ${user.name} already` })
    return this.putUser({ ...user, createdAt: this.#clock.wall() })
  }

  putUser(user: User): User {
    for (const { organisation } of user.grants) if (organisation !== undefined) this.organisation(organisation)
    if (user.organisation !== undefined) this.organisation(user.organisation)
    this.#store.users.put(user.name, user)
    this.#changed()
    return user
  }

  /** With all tokens and sessions. */
  deleteUser(name: string): void {
    this.user(name)
    this.#store.database.transaction(() => {
      for (const { id } of this.tokensOf(name)) this.#store.userTokens.delete(id)
      this.#store.users.delete(name)
    })
    this.#changed()
  }

  // tokens and sessions

  tokensOf(user: string): UserToken[] {
    return this.#store.userTokens.list().filter((token) => token.user === user)
  }

  /** Its text is told once. */
  createToken(wanted: {
    user: string
    kind: UserToken['kind']
    ttlSeconds: number
    name?: string | undefined
    limits?: Limits | undefined
  }): { token: string; record: UserToken } {
    const { user, kind, ttlSeconds, name, limits } = wanted
    const now = this.#clock.wall()
    const id = randomBytes(8).toString('hex')
    const token = `hedgerow-${kind === 'token' ? 'api' : 'session'}.${id}.${randomBytes(32).toString('base64url')}`
    const record: UserToken = {
      id,
      user,
      kind,
      ...(name === undefined ? {} : { name }),
      hash: hashOf(token).toString('hex'),
      ...(limits === undefined ? {} : { limits }),
      createdAt: now,
      expiresAt: now + ttlSeconds * 1_000,
    }
    this.#store.database.transaction(() => {
      this.#makeRoom(user, kind, now)
      this.#store.userTokens.put(id, record)
    })
    return { token, record }
  }

  /** What has expired goes; of sessions the oldest, too. @throws MeshError USAGE when there are as many tokens as may be */
  #makeRoom(user: string, kind: UserToken['kind'], now: number): void {
    for (const { id, expiresAt } of this.#store.userTokens.list())
      if (expiresAt <= now) this.#store.userTokens.delete(id)
    const there = this.tokensOf(user).filter((token) => token.kind === kind)
    if (kind === 'token' && there.length >= MOST_TOKENS)
      throw new MeshError('USAGE', { reason: `${user} has ${MOST_TOKENS} API tokens`, remedy: 'Revoke some first.' })
    if (kind === 'session')
      for (const { id } of there.toSorted((a, b) => b.createdAt - a.createdAt).slice(MOST_SESSIONS - 1))
        this.#store.userTokens.delete(id)
  }

  /** @throws MeshError API_TOKEN_UNKNOWN */
  token(id: string): UserToken {
    const found = this.#store.userTokens.get(id)
    if (found === undefined) throw new MeshError('API_TOKEN_UNKNOWN', { id: id.slice(0, 100) })
    return found
  }

  revoke(id: string): void {
    this.#store.userTokens.delete(id)
    this.#changed()
  }

  /** Another password: whoever logged in with the one before logs in again. */
  endSessions(user: string): void {
    this.#store.database.transaction(() => {
      for (const { id, kind } of this.tokensOf(user)) if (kind === 'session') this.#store.userTokens.delete(id)
    })
    this.#changed()
  }

  // clusters

  ownerOf(cluster: string): ClusterOwner | undefined {
    return this.#store.clusterOwners.get(cluster)
  }

  /** `undefined`: nobody owns it. @throws MeshError ORGANISATION_UNKNOWN */
  setOwner(cluster: string, owner: Omit<ClusterOwner, 'cluster'> | undefined): void {
    if (owner === undefined) this.#store.clusterOwners.delete(cluster)
    else {
      this.organisation(owner.organisation)
      for (const name of owner.admits) if (name !== '*') this.organisation(name)
      this.#store.clusterOwners.put(cluster, { cluster, ...owner })
    }
    this.#changed()
  }

  #changed(): void {
    this.#owners = undefined
    this.#revision++
    for (const listener of this.#listeners) listener()
  }
}

/** By home or by role. */
export function belongsTo({ organisation, grants }: Pick<User, 'organisation' | 'grants'>, name: string): boolean {
  return organisation === name || grants.some((grant) => grant.organisation === name)
}

/** Whether the caller is the administrator of the mesh, and nothing limits that. */
export function isAdministrator(who: Caller): boolean {
  return may(who, 'mesh', { kind: 'mesh' })
}

function checkName(name: string): void {
  const fault = /[A-Z]/.test(name) ? 'it has capital letters' : labelFault(name)
  if (fault !== undefined)
    throw new MeshError('USAGE', { reason: `"${name.slice(0, 100)}" cannot be a name: ${fault}` })
}

function hashOf(token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
