import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Target } from '../../src/core/table/view.ts'
import { authorise } from '../decide/authorise.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../flow/flow.ts'
import type { CallerEnd, Identify } from './interceptor.ts'
import { type InstanceProcesses, ownInodes, socketOwners, type SocketOwners } from './proc-processes.ts'
import { connectionSockets, datagramSockets, type OpenSocket } from './proc-sockets.ts'

/*
 * Which instance of this node opened a connection to a VIP:
 *
 *   accepted socket ─▶ its pair of addresses in /proc/net/tcp(6) ─┐    ┌─▶ uid: the instance that has this user
 *   datagram's source ─▶ every socket in /proc/net/udp(6) with     ├─▶ ┤
 *                        that port: all must be one owner's       ─┘    └─▶ inode ─▶ /proc/<pid>/fd of the processes of instances
 *                                                                           that have no user of their own
 *
 * The uid is the kernel's, and of no use to forge: no instance can change it. A uid of the range that no instance here has now belongs to
 * what is left of one that ends, or to another agent of the machine: such a caller is nobody.
 *
 * A container has an address of its own, and may not send from others: its flows are its own, and nothing is looked up.
 *
 * The source address of any other datagram proves nothing: a socket may send from any address of the machine (IP_PKTINFO), and to
 * other addresses than the one it is connected to. Its port does.
 *
 * This is looked up only where the answer decides something: one caller on this node may call the target and another may
 * not, or the choice is `any.pinned`. Connections that wait at the same time share one scan; scans follow one another.
 */

export type { InstanceProcesses } from './proc-processes.ts'

/** Connections that may wait for a scan. Smaller: a burst is refused; larger: more callers have gone when it is their turn. */
const WAITING_LIMIT = 4_096

/** More than a node has instances. */
const CALLERS = 4_096

/** Which addresses containers have. */
export interface ContainerAddresses {
  /** Only containers have such an address. */
  isContainer(address: string): boolean
  instanceAt(address: string): InstanceId | undefined
}

interface Waiting {
  end: CallerEnd
  resolve: (owner: Owner) => void
}

/** `stranger`: an instance, but none of those here now. */
type Owner = Caller | 'unclear' | 'stranger'

export class CallerFinder {
  readonly #processesOf: () => Iterable<InstanceProcesses>
  readonly #isInstanceUser: (uid: number) => boolean
  readonly #containers: ContainerAddresses
  /** Those of the instances here, read from their ids once. */
  readonly #callers = new BoundedMap<InstanceId, Caller>(CALLERS)
  #waiting: Waiting[] = []
  #isScanning = false

  /** `processesOf` lists the instances that run here; it is called for each connection. `isInstanceUser`: only instances run as it. */
  constructor(
    processesOf: () => Iterable<InstanceProcesses>,
    isInstanceUser: (uid: number) => boolean = () => false,
    containers: ContainerAddresses = { isContainer: () => false, instanceAt: () => undefined },
  ) {
    this.#processesOf = processesOf
    this.#isInstanceUser = isInstanceUser
    this.#containers = containers
  }

  /**
   * `undefined`: the caller cannot be identified (a process of another user, a caller that has gone), and some instance here
   * may not call the target.
   */
  readonly identify: Identify = (end, target) => {
    const { address } = end.protocol === 'tcp' ? end.local : end
    if (this.#containers.isContainer(address)) return this.#container(address)
    if (!this.#matters(target)) return NODE_CALLER
    const here = Array.from(this.#processesOf(), ({ instance }) => this.#callerOf(instance))
    return this.#find(end).then((owner) => {
      if (owner === 'stranger') return undefined
      if (owner !== 'unclear') return owner
      return here.every((caller) => caller === undefined || isAllowed(caller, target)) ? NODE_CALLER : undefined
    })
  }

  /** Whether the program at that end may see something; where it is not known who it is, whether all here may. */
  maySee(end: CallerEnd, sees: (caller: Caller) => boolean): boolean | Promise<boolean> {
    const { address } = end.protocol === 'tcp' ? end.local : end
    if (this.#containers.isContainer(address)) {
      const instance = this.#containers.instanceAt(address)
      const container = instance === undefined ? undefined : this.#callerOf(instance)
      return container !== undefined && sees(container)
    }
    const isForNode = sees(NODE_CALLER)
    const here = Array.from(this.#processesOf(), ({ instance }) => this.#callerOf(instance))
    const isForAll = here.every((caller) => caller === undefined || sees(caller))
    if (isForNode ? isForAll : !here.some((caller) => caller !== undefined && sees(caller))) return isForNode
    return this.#find(end).then((owner) =>
      owner === 'stranger' ? false : owner === 'unclear' ? isForNode && isForAll : sees(owner),
    )
  }

  /** One that no instance has belongs to what is left of one that ends, or to a container that somebody put there. */
  #container(address: string): Caller | Promise<undefined> {
    const instance = this.#containers.instanceAt(address)
    return (instance === undefined ? undefined : this.#callerOf(instance)) ?? Promise.resolve(undefined)
  }

  /** Whether it makes a difference which of the callers on this node it is. Asked for each connection: builds nothing. */
  #matters(target: Target): boolean {
    const { choice } = target
    const isPinned = choice.instance === 'any' && choice.policy === 'pinned'
    const isNodeAllowed = isAllowed(NODE_CALLER, target)
    for (const { instance } of this.#processesOf()) {
      const caller = this.#callerOf(instance)
      if (caller !== undefined && (isPinned || isAllowed(caller, target) !== isNodeAllowed)) return true
    }
    return false
  }

  #callerOf(instance: InstanceId): Caller | undefined {
    return this.#callers.get(instance) ?? this.#newCaller(instance)
  }

  #newCaller(instance: InstanceId): Caller | undefined {
    const caller = instanceCaller(instance)
    if (caller !== undefined) this.#callers.set(instance, caller)
    return caller
  }

  #find(end: CallerEnd): Promise<Owner> {
    if (this.#waiting.length >= WAITING_LIMIT) return Promise.resolve('unclear')
    const { promise, resolve } = Promise.withResolvers<Owner>()
    this.#waiting.push({ end, resolve })
    if (!this.#isScanning) void this.#scanAll()
    return promise
  }

  async #scanAll(): Promise<void> {
    this.#isScanning = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      const ends = waiting.map(({ end }) => end)
      const owners = await scan(ends, [...this.#processesOf()], this.#isInstanceUser).catch(() => undefined)
      for (const [i, { resolve }] of waiting.entries()) resolve(owners?.[i] ?? 'unclear')
    }
    this.#isScanning = false
  }
}

function isAllowed(caller: Caller, { service }: Target): boolean {
  return authorise(caller, service).allowed
}

async function scan(
  ends: readonly CallerEnd[],
  processes: readonly InstanceProcesses[],
  isInstanceUser: (uid: number) => boolean,
): Promise<Owner[]> {
  const byUid = new Map(processes.flatMap((each) => ('uid' in each ? [[each.uid, each.instance] as const] : [])))
  const sockets = await socketsOf(ends)
  const unknown = sockets.flat().filter(({ uid }) => !byUid.has(uid) && !isInstanceUser(uid))
  const found = await socketOwners(new Set(unknown.map(({ inode }) => inode)), processes)
  return sockets.map((candidates) => {
    if (candidates.some(({ uid }) => !byUid.has(uid) && isInstanceUser(uid))) return 'stranger'
    return ownerOf(candidates, byUid, found)
  })
}

function ownerOf(
  candidates: readonly OpenSocket[],
  byUid: ReadonlyMap<number, InstanceId>,
  { owners, isPartial }: SocketOwners,
): Owner {
  const instanceOf = ({ uid, inode }: OpenSocket) => byUid.get(uid) ?? owners.get(inode)
  const found = new Set(candidates.map(instanceOf))
  if (found.size > 1 && found.delete(undefined)) {
    const ours = ownInodes() // sockets of flows to instances, which are never a caller
    if (candidates.some((socket) => instanceOf(socket) === undefined && !ours.has(socket.inode))) return 'unclear'
  }
  if (found.size !== 1) return 'unclear'
  const [instance] = found
  if (instance !== undefined) return instanceCaller(instance) ?? 'unclear'
  return isPartial ? 'unclear' : NODE_CALLER
}

/** The sockets that each caller's end may be; none when the caller has closed it already. */
async function socketsOf(ends: readonly CallerEnd[]): Promise<OpenSocket[][]> {
  const found: OpenSocket[][] = ends.map(() => [])
  const connections = ends.flatMap((end, i) => (end.protocol === 'tcp' ? [{ i, end }] : []))
  if (connections.length > 0) {
    const sockets = await connectionSockets(connections.map(({ end }) => end))
    for (const [at, { i }] of connections.entries()) found[i] = sockets[at] === undefined ? [] : [sockets[at]]
  }
  if (connections.length === ends.length) return found
  const byPort = await datagramSockets()
  for (const [i, end] of ends.entries()) if (end.protocol === 'udp') found[i] = byPort.get(end.port) ?? []
  return found
}
