import { MeshError } from '../../../core/errors.ts'
import type { Event } from '../events/event.ts'
import { may, type Caller, type Thing } from './may.ts'
import { isAdministrator, type People } from './people.ts'
import { refused } from './need.ts'
import type { Permission } from './roles.ts'

/** For an instance of somebody else, where one must be counted. */
export const SOMEBODY_ELSES = 'another.organisation.instance.hidden.0'

/** What one caller sees of the mesh: it follows what changes in its roles while a stream is open. */
export class View {
  readonly #who: Caller
  readonly #people: People
  #revision: number
  #now: Caller | undefined
  readonly #seen = new Map<string, boolean>()
  #mark: string | undefined

  constructor(who: Caller, people: People) {
    this.#who = who
    this.#now = who
    this.#people = people
    this.#revision = people.revision
  }

  get who(): Caller {
    return this.#who
  }

  /** Everything: nothing is left out anywhere. */
  get isWhole(): boolean {
    const now = this.#current()
    return now !== undefined && isAdministrator(now)
  }

  /** Another one when the caller may see something else than before; empty for whoever sees everything. */
  get mark(): string {
    const now = this.#current()
    this.#mark ??= this.isWhole ? '' : JSON.stringify([now?.grants, now?.limits, this.#people.ownership])
    return this.#mark
  }

  /** Each time when it may be another one. */
  onChanged(act: () => void): Disposable {
    return this.#people.onChanged(act)
  }

  may(permission: Permission, thing: Thing): boolean {
    const now = this.#current()
    return now !== undefined && may(now, permission, thing)
  }

  /** @throws MeshError FORBIDDEN */
  require(permission: Permission, thing: Thing): void {
    if (!this.may(permission, thing)) throw refused(permission)
  }

  /** An app, or what begins with its name: a service, an instance, a secret. */
  sees(named: string): boolean {
    const second = named.indexOf('.', named.indexOf('.') + 1)
    const app = second === -1 ? named : named.slice(0, second)
    return this.#memo(app, () => this.may('see', this.#people.app(app)))
  }

  /** Of what begins with the name of an app. */
  mayWith(permission: Permission, named: string): boolean {
    return this.may(permission, this.#people.app(named))
  }

  seesCluster(name: string): boolean {
    return this.#memo(`cluster ${name}`, () => this.may('see', this.#people.cluster(name)))
  }

  mayOperate(cluster: string): boolean {
    return this.#memo(`operate ${cluster}`, () => this.may('operate', this.#people.cluster(cluster)))
  }

  seesNode(id: string): boolean {
    const slash = id.indexOf('/')
    return this.seesCluster(slash === -1 ? id : id.slice(0, slash))
  }

  seesEvent({ service, instance, node, cluster }: Event): boolean {
    const named = service ?? instance
    if (named !== undefined) return this.sees(named)
    if (node !== undefined) return this.seesNode(node)
    return cluster !== undefined && this.seesCluster(cluster)
  }

  /** @throws MeshError FORBIDDEN with every app of a document that the caller may not change */
  checkApps(apps: readonly { app: string; namespace: string }[]): void {
    const names = apps.map(({ app, namespace }) => `${app}.${namespace}`)
    const others = names.filter((name) => !this.may('change', this.#people.app(name)))
    if (others.length === 0) return
    throw new MeshError('FORBIDDEN', {
      permission: 'change',
      apps: others,
      reason: `you may not change ${others.slice(0, 5).join(', ')}`,
      remedy:
        'A namespace belongs to one organisation; `hedgerow whoami` says which are yours, and which roles you have.',
    })
  }

  #current(): Caller | undefined {
    if (this.#revision === this.#people.revision) return this.#now
    this.#revision = this.#people.revision
    this.#now = this.#people.again(this.#who)
    this.#seen.clear()
    this.#mark = undefined
    return this.#now
  }

  #memo(key: string, decide: () => boolean): boolean {
    this.#current()
    const known = this.#seen.get(key)
    if (known !== undefined) return known
    const seen = decide()
    if (this.#seen.size > 10_000) this.#seen.clear()
    this.#seen.set(key, seen)
    return seen
  }
}
