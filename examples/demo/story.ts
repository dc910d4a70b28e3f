import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../src/lab/program.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { MARK } from './marked.ts'
import { check, get, PORT, Shell, type Answer } from './shell.ts'
import { ask, REPOSITORY, type Machine, type Stage } from './stage.ts'
import type { Teller } from './tell.ts'
import { underLoad } from './under-load.ts'

/** What `hedgerow get instances -o json` lists. */
interface InstanceRow {
  id: string
  state: string
  node?: string
}

const SHOP = join(REPOSITORY, 'examples/shop')
const CART = 'shop.acme.cart.prod'
/** Calls nobody else, so that figures under load are about one connection each. */
const STOCK = 'shop.acme.stock.prod'

/** The turns are exact, but an instance that is slow to answer is overtaken by the next: a busy machine shows it. */
const OVERTAKEN = 2

/** How two nodes behind NATs speak: at once through the relay, a moment later straight. */
const THROUGH_NATS: Readonly<Record<string, string>> = {
  relayed: 'relayed: neither can dial the other, and the relay cannot read a byte',
  punched: 'punched: both dialled at the same moment, straight through both NATs',
}

/** The steps of the demo, in order. Each shows real commands with their real output, and checks what it claims. */
export class Story {
  readonly #stage: Stage
  readonly #tell: Teller
  readonly #signal: AbortSignal
  readonly #rate: number
  readonly #shell: Shell
  readonly #here: Machine

  /** `rate`: requests a second while things die. */
  constructor(stage: Stage, tell: Teller, { rate, signal }: { rate: number; signal: AbortSignal }) {
    this.#stage = stage
    this.#tell = tell
    this.#signal = signal
    this.#rate = rate
    this.#shell = new Shell(tell, signal)
    this.#here = stage.nodes[0] as Machine
  }

  async nodes(): Promise<void> {
    const { admin, nodes, kind } = this.#stage
    const seconds = await this.#shell.until(
      `all ${nodes.length} nodes have joined`,
      async () => (await ask<unknown[]>(admin, ['get', 'nodes'])).length === nodes.length,
    )
    await this.#shell.hedgerow(admin, 'get', 'nodes')
    this.#tell.done({ kind, nodes: nodes.length, waitedSeconds: seconds })
  }

  async submit(): Promise<void> {
    this.#tell.step('apply', 'A shop of three services: storefront → cart → stock')
    const file = join(this.#stage.state, 'shop.yaml')
    await writeFile(file, await this.#document())
    await this.#shell.hedgerow(this.#stage.admin, 'apply', '-f', file)
    const seconds = await this.#shell.until('all instances run', async () => {
      const instances = await this.#instances()
      const running = instances.filter(({ state }) => state === 'running').length
      this.#tell.progress(`${running} of ${instances.length} instances run`)
      return instances.length > 0 && running === instances.length
    })
    await this.#shell.hedgerow(this.#stage.admin, 'get', 'instances')
    const { length } = await this.#instances()
    this.#tell.fact(`${length} instances run, ${seconds} s after the document was taken`)
    this.#tell.done({ instances: length, runningAfterSeconds: seconds })
  }

  async names(): Promise<void> {
    this.#tell.step('dig', 'A name says which service, which instance, and how to choose')
    const name = `${CART}.any.closest.local`
    const vip = hasTool('dig') ? await this.#digName(name) : await this.#resolveName(name)
    this.#tell.fact(`${name} is ${vip}, which stays as long as the service does`)
    this.#tell.done({ name, vip })
  }

  async #digName(name: string): Promise<string> {
    const address = await this.#shell.dig(this.#here, name, 'A')
    await this.#shell.dig(this.#here, name, 'TXT')
    const vip = /\sA\s+(\d+(?:\.\d+){3})/.exec(address)?.[1]
    check(vip !== undefined, `dig found no address for ${name}`)
    const nothing = await this.#here.dig(['+noall', '+comments', 'shop.acme.nothing.prod.any.rr.local'])
    const { stdout } = await run(this.#here.argv(nothing))
    check(stdout.includes('NXDOMAIN'), `a service that does not exist must be NXDOMAIN: ${stdout}`)
    this.#tell.fact('an unknown service is NXDOMAIN')
    return vip
  }

  /** Where dig is not installed and may not be: the agent itself says what its name server answers. */
  async #resolveName(name: string): Promise<string> {
    await this.#shell.hedgerow(this.#here, 'resolve', name)
    const { ipv4 } = await ask<{ ipv4: string }>(this.#here, ['resolve', name])
    this.#tell.fact('dig is not installed, so no program has asked the name server')
    return ipv4
  }

  async roundRobin(): Promise<void> {
    this.#tell.step('rr', 'any.rr: every instance in turn')
    const carts = await this.#instances(CART)
    const answers = await this.#shell.curl(this.#here, `${CART}.any.rr.local`, carts.length * 10)
    const counts = countBy(answers, ({ instance }) => instance)
    for (const { id } of carts) {
      const count = counts[id] ?? 0
      this.#tell.fact(`${id} answered ${count} times`)
      check(Math.abs(count - 10) <= OVERTAKEN, `round robin must be even: ${JSON.stringify(counts)}`)
    }
    this.#tell.done({ counts })
  }

  async closest(): Promise<void> {
    this.#tell.step('closest', 'any.closest: the nearest instance')
    const servedBy: Record<string, string[]> = {}
    for (const machine of this.#oneOfEachSite()) {
      const answers = await this.#shell.curl(machine, `${CART}.any.closest.local`, 10)
      const names = Object.keys(countBy(answers, ({ node }) => nameOf(node)))
      servedBy[machine.name] = names
      const hasStayed = names.every((name) => this.#siteOf(name) === machine.site)
      check(hasStayed, `closest left the ${machine.site} site: ${names.join(', ')}`)
      this.#tell.fact(`from ${machine.name}: always ${names.join(', ')}`)
    }
    this.#tell.done({ servedBy })
  }

  async pinned(): Promise<void> {
    this.#tell.step('pinned', '0.pinned: instance 0 and no other')
    const answers = await this.#shell.curl(this.#here, `${CART}.0.pinned.local`, 10)
    const counts = countBy(answers, ({ instance }) => instance)
    check(counts[`${CART}.0`] === 10, `pinned must stay: ${JSON.stringify(counts)}`)
    this.#tell.fact(`${CART}.0 answered all 10`)
    this.#tell.done({ counts })
  }

  async chain(): Promise<void> {
    this.#tell.step('chain', 'The services call each other the same way, with ordinary HTTP clients')
    const [storefront] = await this.#shell.curl(this.#here, 'shop.acme.storefront.prod.any.rr.local')
    const cart = storefront?.['cart'] as Answer | undefined
    const stock = cart?.['stock'] as Answer | undefined
    check(storefront !== undefined && cart !== undefined && stock !== undefined, 'the chain is broken')
    const chain = [storefront, cart, stock].map(({ instance, node }) => `${instance} on ${node}`)
    this.#tell.fact(chain.join(' → '))
    this.#tell.done({ chain })
  }

  async across(): Promise<void> {
    const isSplit = this.#stage.kind === 'namespaces'
    this.#tell.step('across', isSplit ? 'From one private network into the other' : 'From one node to another')
    const here = this.#here
    const isFar = (name: string) => (isSplit ? this.#siteOf(name) !== here.site : name !== here.name)
    const far = (await this.#instances(CART)).find(({ node }) => node !== undefined && isFar(nameOf(node)))
    check(far !== undefined, `no cart runs away from ${here.name}`)
    const name = `${CART}.${far.id.slice(CART.length + 1)}.pinned.local`
    const [answer] = await this.#shell.curl(here, name)
    check(answer?.instance === far.id, `${far.id} should have answered`)
    await this.#shell.hedgerow(here, 'trace', `${name}:${PORT}`)
    await this.#shell.hedgerow(here, 'peers')
    const trace = await ask<{ path?: string; connectMs?: number }>(here, ['trace', `${name}:${PORT}`])
    const expected = isSplit ? Object.keys(THROUGH_NATS) : ['direct']
    check(expected.includes(trace.path ?? ''), `the path should be ${expected.join(' or ')}, it is ${trace.path}`)
    this.#tell.fact(`${here.name} → ${far.node}: ${THROUGH_NATS[trace.path ?? ''] ?? trace.path}`)
    this.#tell.done({ from: here.name, to: far.node, path: trace.path, connectMs: trace.connectMs })
  }

  async killInstance(): Promise<void> {
    this.#tell.step('kill', `kill -9 of an instance at ${this.#rate} requests/s, each on a new connection`)
    const name = `${STOCK}.1.pinned.local`
    const [victim] = await this.#shell.curl(this.#here, name)
    check(victim !== undefined, 'there is no instance to kill')
    const { ipv4 } = await ask<{ ipv4: string }>(this.#here, ['resolve', name])
    const { load, result } = await this.#underLoad(async () => {
      this.#tell.command(`kill -9 ${victim.pid}    # ${victim.instance} on ${victim.node}`)
      process.kill(victim.pid, 'SIGKILL')
      return this.#shell.until(`${victim.instance} answers again`, async () => {
        const answer = await this.#shell.ask(this.#here, ipv4)
        return answer !== undefined && answer.pid !== victim.pid
      })
    })
    this.#tell.fact(`${victim.instance} answers again after ${result} s, as a new process`)
    this.#tell.done({ killed: victim.instance, againAfterSeconds: result, load })
  }

  async loseNode(): Promise<void> {
    const stocks = (await this.#instances(STOCK)).map(({ node = '' }) => nameOf(node))
    const machine = this.#stage.nodes.findLast((node) => node !== this.#here && stocks.includes(node.name))
    check(machine !== undefined, `all of the stock runs on ${this.#here.name}`)
    this.#tell.step(
      'lose',
      `The power of ${machine.name} goes, which runs a part of the stock, at ${this.#rate} requests/s`,
    )
    const wanted = (await this.#instances()).length
    const { load, result } = await this.#underLoad(async () => {
      await machine.lose()
      this.#tell.fact(`${machine.name} is gone`)
      return this.#shell.until(`all ${wanted} instances run on the nodes that are left`, async () => {
        const there = ({ state, node = '' }: InstanceRow) => state === 'running' && nameOf(node) !== machine.name
        return (await this.#instances()).filter(there).length === wanted
      })
    })
    await this.#shell.hedgerow(this.#stage.admin, 'get', 'instances')
    this.#tell.fact(`all ${wanted} instances run again after ${result} s`)
    this.#tell.done({ lost: machine.name, runningAgainAfterSeconds: result, load })
  }

  whatNext(): string[] {
    const on = (machine: Machine, ...args: readonly string[]) =>
      machine.argv(['npm', 'run', '--silent', 'hedgerow', '--', '--state', machine.state, ...args]).join(' ')
    return [
      on(this.#here, 'status'),
      on(this.#here, 'with-proxy', '--', ...get(`http://shop.acme.storefront.prod.any.closest.local:${PORT}/`)),
      on(this.#here, 'resolve', `${CART}.any.least.local`),
      on(this.#here, 'flows'),
      on(this.#stage.admin, 'scale', CART, '6'),
    ]
  }

  /** The shop's document with the folder and the Node of this machine, and the mark by which the demo finds what runs. */
  async #document(): Promise<string> {
    const text = await readFile(join(SHOP, 'shop.yaml'), 'utf8')
    return text
      .replaceAll('code: examples/shop', `code: ${SHOP}`)
      .replaceAll('cmd: [node, ', `cmd: ['${process.execPath}', `)
      .replaceAll(/^( *)environment: \[(.*)\]$/gm, `$1environment: ['${MARK}=${this.#stage.state}', $2]`)
  }

  #underLoad<T>(act: () => Promise<T>) {
    const name = `${STOCK}.any.rr.local`
    const load = { machine: this.#here, name, rate: this.#rate }
    return underLoad({ ...load, tell: this.#tell, signal: this.#signal }, act)
  }

  async #instances(service = 'shop.acme'): Promise<InstanceRow[]> {
    const rows = await ask<InstanceRow[]>(this.#stage.admin, ['get', 'instances', `${service}.`])
    return rows.filter(({ state }) => state !== 'stopped')
  }

  #oneOfEachSite(): Machine[] {
    const { nodes } = this.#stage
    return nodes.filter(({ site }, index) => nodes.findIndex((other) => other.site === site) === index)
  }

  #siteOf(name: string): string | undefined {
    return this.#stage.nodes.find((node) => node.name === name)?.site
  }
}

function countBy(answers: readonly Answer[], key: (answer: Answer) => string): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const answer of answers) counts[key(answer)] = (counts[key(answer)] ?? 0) + 1
  return counts
}

/** `edge/n1` is `n1` here: there is one cluster only. */
function nameOf(node: string): string {
  return node.slice(node.lastIndexOf('/') + 1)
}
