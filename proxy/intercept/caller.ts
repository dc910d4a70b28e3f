import type { Target } from '../../src/core/table/view.ts'
import { authorise } from '../decide/authorise.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../flow/flow.ts'
import type { CallerEnd } from './interceptor.ts'
import { type InstanceProcesses, ownInodes, socketOwners, type SocketOwners } from './proc-processes.ts'
import { connectionInodes, datagramInodes } from './proc-sockets.ts'

/*
 * Which instance of this node opened a connection to a VIP:
 *
 *   accepted socket ─▶ its pair of addresses in /proc/net/tcp(6) ─┐
 *   datagram's source ─▶ every socket in /proc/net/udp(6) with     ├─▶ inode ─▶ /proc/<pid>/fd of the instances' processes
 *                        that port: all must be one owner's       ─┘
 *
 * The source address of a datagram proves nothing: a socket may send from any address of the machine (IP_PKTINFO), and to
 * other addresses than the one it is connected to. Its port does.
 *
 * This is looked up only where the answer decides something: one caller on this node may call the target and another may
 * not, or the choice is `any.pinned`. Connections that wait at the same time share one scan; scans follow one another.
 */

export type { InstanceProcesses } from './proc-processes.ts'

/** Connections that may wait for a scan. Smaller: a burst is refused; larger: more callers have gone when it is their turn. */
const WAITING_LIMIT = 4_096

interface Waiting {
  end: CallerEnd
  resolve: (owner: Owner) => void
}

type Owner = Caller | 'unclear'

export class CallerFinder {
  readonly #processesOf: () => Iterable<InstanceProcesses>
  #waiting: Waiting[] = []
  #isScanning = false

  /** `processesOf` lists the instances that run here; it is called for each connection. */
  constructor(processesOf: () => Iterable<InstanceProcesses>) {
    this.#processesOf = processesOf
  }

  /**
   * `undefined`: the caller cannot be identified (a process of another user, a caller that has gone), and some instance here
   * may not call the target.
   */
  readonly identify = (end: CallerEnd, target: Target): Caller | Promise<Caller | undefined> => {
    const here = [...this.#processesOf()].map(({ instance }) => instanceCaller(instance)).filter((c) => c !== undefined)
    if (here.length === 0 || !matters(here, target)) return NODE_CALLER
    return this.#find(end).then((owner) => {
      if (owner !== 'unclear') return owner
      return here.every((caller) => authorise(caller, target.service).allowed) ? NODE_CALLER : undefined
    })
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
      const owners = await scan(
        waiting.map(({ end }) => end),
        [...this.#processesOf()],
      ).catch(() => undefined)
      for (const [i, { resolve }] of waiting.entries()) resolve(owners?.[i] ?? 'unclear')
    }
    this.#isScanning = false
  }
}

/** Whether it makes a difference which of the callers on this node it is. */
function matters(here: readonly Caller[], { service, choice }: Target): boolean {
  if (choice.instance === 'any' && choice.policy === 'pinned') return true
  const { allowed } = authorise(NODE_CALLER, service)
  return here.some((caller) => authorise(caller, service).allowed !== allowed)
}

async function scan(ends: readonly CallerEnd[], processes: readonly InstanceProcesses[]): Promise<Owner[]> {
  const inodes = await inodesOf(ends)
  const found = await socketOwners(new Set(inodes.flat()), processes)
  return inodes.map((candidates) => ownerOf(candidates, found))
}

function ownerOf(candidates: readonly string[], { owners, isPartial }: SocketOwners): Owner {
  const found = new Set(candidates.map((inode) => owners.get(inode)))
  if (found.size > 1 && found.delete(undefined)) {
    const ours = ownInodes() // sockets of flows to instances, which are never a caller
    if (candidates.some((inode) => !owners.has(inode) && !ours.has(inode))) return 'unclear'
  }
  if (found.size !== 1) return 'unclear'
  const [instance] = found
  if (instance !== undefined) return instanceCaller(instance) ?? 'unclear'
  return isPartial ? 'unclear' : NODE_CALLER
}

/** The inodes that each caller's end may have; none when the caller has closed it already. */
async function inodesOf(ends: readonly CallerEnd[]): Promise<string[][]> {
  const found: string[][] = ends.map(() => [])
  const connections = ends.flatMap((end, i) => (end.protocol === 'tcp' ? [{ i, end }] : []))
  if (connections.length > 0) {
    const inodes = await connectionInodes(connections.map(({ end }) => end))
    for (const [at, { i }] of connections.entries()) found[i] = inodes[at] === undefined ? [] : [inodes[at]]
  }
  if (connections.length === ends.length) return found
  const byPort = await datagramInodes()
  for (const [i, end] of ends.entries()) if (end.protocol === 'udp') found[i] = byPort.get(end.port) ?? []
  return found
}
