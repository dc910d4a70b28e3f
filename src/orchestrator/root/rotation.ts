import { MeshError } from '../../core/errors.ts'
import type { Authority } from '../../core/identity/authority.ts'
import type { AuthorityState } from '../../core/identity/authority-file.ts'
import type { Trust } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { Clusters } from './clusters.ts'
import { listMembers } from './members.ts'
import type { NodeDirectory } from './node-directory.ts'
import type { RevocationRegister } from './revocation-register.ts'
import type { RootStore } from './root-store.ts'
import { behind, mayIssue, mayRetire, type Member } from './rotation-rules.ts'

export interface RotationParts {
  authority: Authority
  /** The root's own certificate. */
  identity: HeldIdentity
  revocations: RevocationRegister
  store: RootStore
  clusters: Clusters
  nodes: NodeDirectory
  clock: Clock
  log: Log
  metrics: Metrics
}

/** The authorities, and how far their rotation is. */
export interface RotationStatus {
  step: AuthorityState['step']
  /** The authority that signs certificates. */
  signs: string
  /** While the step is `spreading`: the one that will sign. */
  next?: string
  /** While the step is `issuing`: the one that signed before, and is still trusted. */
  replaced?: string
  members: number
  /** Who keeps the rotation from its next step. */
  behind: Omit<Member, 'trust'>[]
}

/**
 * Replaces the authority while the mesh runs. The step is the authority's own state, saved with its keys in one file; everything
 * else, the list that names the authorities, the root's certificate, admin.json, follows from it, at a start as well.
 *
 *     rotate ─▶ spreading: the list with both goes to everybody ─▶ all who are up trust both, or --force
 *            ─▶ issuing: root, clusters, then their nodes and relays ask for certificates ─▶ retire: all have one, or --force
 *            ─▶ steady: the list with the new one alone; every connection is made anew
 */
export class Rotation {
  readonly #parts: RotationParts
  /** Writes what follows from the authorities beside the store: admin.json. */
  readonly #written: () => void
  #changing: Promise<unknown> = Promise.resolve()
  #checking: Promise<void> | undefined
  #isClosed = false
  /** When the step began, or this process. */
  #since: number
  /** False after a step whose consequences could not all be written: they are tried again. */
  #isFollowed = true

  constructor(parts: RotationParts, written: () => void) {
    this.#parts = parts
    this.#since = parts.clock.now()
    this.#written = written
  }

  async status(): Promise<RotationStatus> {
    const { authority, metrics } = this.#parts
    const members = await listMembers(this.#parts)
    const { step, ids } = authority
    const late = behind(step, ids, members)
    metrics.membersBehind.set(late.length)
    return {
      step,
      signs: ids.signs,
      ...(ids.beside === undefined ? {} : { [step === 'spreading' ? 'next' : 'replaced']: ids.beside }),
      members: members.length,
      behind: late.map(({ id, role, isLive }) => ({ id, role, isLive })),
    }
  }

  /** Begins a rotation; with `force` the next authority signs although some do not trust it yet. @throws MeshError ROTATION_REFUSED, DISK_FULL */
  rotate({ force }: { force: boolean }): Promise<RotationStatus> {
    return this.#oneAtATime(async () => {
      const { authority } = this.#parts
      if (authority.step === 'issuing' || (authority.step === 'spreading' && !force)) throw this.#underWay()
      if (authority.step === 'steady') await this.#enter(() => authority.rotate())
      if (force) await this.#enter(() => authority.issueByNext())
    })
  }

  /** Drops the replaced authority; with `force` also where members still need it. @throws MeshError ROTATION_REFUSED, DISK_FULL */
  retire({ force }: { force: boolean }): Promise<RotationStatus> {
    return this.#oneAtATime(async () => {
      const { authority } = this.#parts
      if (authority.step !== 'issuing') throw this.#underWay()
      const late = behind(authority.step, authority.ids, await listMembers(this.#parts))
      if (!force && !mayRetire(late)) throw stillNeeded(late)
      await this.#enter(() => authority.retire())
    })
  }

  /** The next authority signs once every member that is up trusts it. */
  issueWhenReady(): Promise<void> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined
    })
    return this.#checking
  }

  async #check(): Promise<void> {
    const { authority, clock, metrics } = this.#parts
    if (this.#isClosed) return
    if (!this.#isFollowed) await this.#oneAtATime(() => this.#follow())
    if (authority.step === 'steady') return metrics.membersBehind.set(0)
    const late = behind(authority.step, authority.ids, await listMembers(this.#parts))
    metrics.membersBehind.set(late.length)
    if (this.#isClosed || authority.step !== 'spreading' || !mayIssue(late, clock.now() - this.#since)) return
    await this.#oneAtATime(async () => {
      if (authority.step === 'spreading') await this.#enter(() => authority.issueByNext())
    })
  }

  /** A cluster has said what it trusts and presents. It gets another certificate if its own is not by the authority that signs. */
  heard(cluster: string, trust: Trust | undefined): void {
    const { store, clusters } = this.#parts
    const record = this.#isClosed ? undefined : store.clusters.get(cluster)
    if (record === undefined) return
    const { trust: _before, ...rest } = record
    try {
      store.clusters.put(cluster, { ...rest, ...(trust === undefined ? {} : { trust }) })
    } catch {
      // the disk is full: whoever writes next says so, and the next hello brings it again
    }
    if (this.#needsCertificate(trust)) clusters.linked(cluster)?.link.notify('renew', {})
  }

  /** The store is closed next: what arrives from now on is not looked at. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.allSettled([this.#checking, this.#changing])
  }

  async #enter(change: () => Promise<void>): Promise<void> {
    const { authority, clock, log } = this.#parts
    await change()
    this.#since = clock.now()
    this.#isFollowed = false
    log.warn('the certificate authority has changed', { step: authority.step, ...authority.ids })
    await this.#follow()
  }

  /** Everything that follows from the step, most important first: a full disk must not keep the news from the members. */
  async #follow(): Promise<void> {
    const { authority, identity, revocations, store, clusters } = this.#parts
    identity.revocations.trust(authority.trusted)
    revocations.refresh()
    clusters.notifyRevocations(revocations.text)
    await identity.renewOnce((csr) => authority.issue(csr, identity.principal), AbortSignal.timeout(RENEW_MS))
    for (const { name, trust } of store.clusters.list()) {
      if (this.#needsCertificate(trust)) clusters.linked(name)?.link.notify('renew', {})
    }
    this.#written()
    this.#isFollowed = true
  }

  #needsCertificate(trust: Trust | undefined): boolean {
    const { signs } = this.#parts.authority.ids
    return trust !== undefined && trust.presents !== signs && trust.trusts.includes(signs)
  }

  async #oneAtATime(change: () => Promise<void>): Promise<RotationStatus> {
    const changed = this.#changing.then(change)
    this.#changing = changed.catch(() => undefined)
    await changed
    return this.status()
  }

  #underWay(): MeshError {
    const { step } = this.#parts.authority
    return new MeshError('ROTATION_REFUSED', { step, reason: REASONS[step], remedy: REMEDIES[step] })
  }
}

const RENEW_MS = 10_000

const REASONS = {
  steady: 'no rotation is under way',
  spreading: 'not every member trusts the next authority yet',
  issuing: 'the authority that was replaced is still trusted',
} as const satisfies Record<AuthorityState['step'], string>

const REMEDIES = {
  steady: 'Begin one with `hedgerow ca rotate`.',
  spreading: '`hedgerow ca status` names them; `hedgerow ca rotate --force` does not wait for them.',
  issuing: '`hedgerow ca status` names who needs it; then run `hedgerow ca retire`.',
} as const satisfies Record<AuthorityState['step'], string>

/** So many names are enough in a message. */
const SHOWN = 8

function stillNeeded(late: readonly Member[]): MeshError {
  const names = late.slice(0, SHOWN).map(({ id }) => id)
  const more = late.length - names.length
  return new MeshError('ROTATION_REFUSED', {
    step: 'issuing',
    members: late.map(({ id }) => id),
    reason: `${late.length === 1 ? '1 member has' : `${late.length} members have`} no certificate by the new authority yet: ${names.join(', ')}${more > 0 ? ` and ${more} more` : ''}`,
    remedy: 'Start them and wait, delete them, or cut them off with --force: they join again with a token.',
  })
}
