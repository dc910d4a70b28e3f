import type { X509Certificate } from 'node:crypto'
import type { Log } from '../kit/log.ts'
import type { NodeId } from '../model/ids.ts'
import { joinAuthorities, meshOf } from './authorities.ts'
import type { Principal, Revocation, RevocationView, TrustChange } from './contract.ts'
import { replace } from './files.ts'
import { nodeIdOf, parsePrincipal } from './principal.ts'
import { readRevocations } from './revocation-list.ts'
import { certificatesIn, enrolmentOf, issuerKeyIdOf } from './x509.ts'

/**
 * The newest list that this process has seen, saved so that a restart without the network forgets nobody, and the authorities that
 * it names.
 */
export class Revocations implements RevocationView {
  readonly #mesh: string
  readonly #path: string | undefined
  readonly #listeners = new Set<(added: readonly Revocation[]) => void>()
  readonly #trustListeners = new Set<(change: TrustChange) => void>()
  readonly #enrolments = new Set<string>()
  readonly #issuers = new Set<string>()
  #authorities: string
  #number = 0
  #text: string | undefined
  #saving: Promise<void> = Promise.resolve()
  #log: Log | undefined

  /**
   * `authorities`: those that are trusted until a list names others, PEM. `path`: where the list is saved; without one it is kept in
   * memory. `saved`: what is there.
   */
  constructor(authorities: string, path?: string, saved?: string) {
    this.#authorities = authorities
    this.#mesh = meshOf(authorities)
    this.#path = path
    if (saved === undefined) return
    try {
      this.#take(saved)
    } catch {
      // a damaged copy is as good as none: the next link or session brings the list again
    }
  }

  /** The authorities that count, PEM. */
  get authorities(): string {
    return this.#authorities
  }

  get number(): number {
    return this.#number
  }

  get text(): string | undefined {
    return this.#text
  }

  /** Where it is said that a list could not be saved. */
  reportTo(log: Log): void {
    this.#log = log
  }

  isRevoked(leaf: X509Certificate): boolean {
    if (this.#enrolments.has(enrolmentOf(leaf))) return true
    if (this.#issuers.size === 0 || leaf.ca) return false
    const issuer = issuerKeyIdOf(leaf)
    return issuer === undefined || this.#issuers.has(issuer) // our issuers always name their key
  }

  hasEnrolment(enrolment: string): boolean {
    return this.#enrolments.has(enrolment)
  }

  onChanged(listener: (added: readonly Revocation[]) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  onTrust(listener: (change: TrustChange) => void): () => void {
    this.#trustListeners.add(listener)
    return () => this.#trustListeners.delete(listener)
  }

  offer(text: string): boolean {
    const taken = text === this.#text ? undefined : this.#take(text)
    if (taken === undefined) return false
    this.#save(text)
    this.#announce(taken.trust)
    for (const listener of this.#listeners) listener(taken.added)
    return true
  }

  /** For the root, which decides about them. */
  trust(authorities: string): void {
    this.#announce(this.#trust(authorities))
  }

  /** Resolves when what was taken is on disk, or could not be written. */
  async saved(): Promise<void> {
    await this.#saving
  }

  /** The entries that are new; `undefined` when the list is not newer. */
  #take(text: string): { added: readonly Revocation[]; trust: TrustChange | undefined } | undefined {
    const { number, entries, authorities } = readRevocations(text, this.#authorities)
    if (number <= this.#number) return undefined
    const trust = authorities === undefined ? undefined : this.#trust(joinAuthorities(authorities, this.#mesh))
    const added = entries.filter(({ kind, id }) => !(kind === 'enrolment' ? this.#enrolments : this.#issuers).has(id))
    this.#number = number
    this.#text = text
    this.#enrolments.clear()
    this.#issuers.clear()
    for (const { kind, id } of entries) (kind === 'enrolment' ? this.#enrolments : this.#issuers).add(id)
    return { added, trust }
  }

  #trust(authorities: string): TrustChange | undefined {
    const before = certificatesIn(this.#authorities)
    const after = certificatesIn(authorities)
    const isIn = (many: X509Certificate[]) => (one: X509Certificate) => many.some(({ raw }) => raw.equals(one.raw))
    const isDropped = !before.every(isIn(after))
    if (!isDropped && after.every(isIn(before))) return undefined
    this.#authorities = authorities
    return { isDropped }
  }

  #announce(change: TrustChange | undefined): void {
    if (change !== undefined) for (const listener of this.#trustListeners) listener(change)
  }

  /** The list counts at once; a disk that is full costs only its memory of it. */
  #save(text: string): void {
    const path = this.#path
    if (path === undefined) return
    this.#saving = this.#saving
      .then(() => replace(path, text))
      .catch((error: unknown) => this.#log?.warn('the list of revoked certificates could not be saved', { error }))
  }
}

/** Which of these nodes hold a certificate that one of the entries may revoke: by name, so it is a hint to look, and no proof. */
export function nodesOf(entries: readonly Revocation[], nodes: Iterable<NodeId>): NodeId[] {
  const principals = entries.flatMap(({ principal }) => parsePrincipal(principal) ?? [])
  return [...nodes].filter((node) =>
    principals.some((principal) =>
      principal.role === 'node' ? nodeIdOf(principal) === node : isClusterOf(principal, node),
    ),
  )
}

function isClusterOf(principal: Principal, node: NodeId): boolean {
  return principal.role === 'cluster' && node.startsWith(`${principal.cluster}/`)
}
