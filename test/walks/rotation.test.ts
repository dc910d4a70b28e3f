import t from 'tap'
import type { AuthorityReport } from '../../src/client/reports.ts'
import { eventually } from '../cli/program.ts'
import { EchoedFlow, SeparateProcesses } from './separate-processes.ts'

/**
 * The certificate authority is replaced while `n0` calls `n1`; `n2` is off meanwhile, and the root is killed between the steps. The
 * longest pause of the flow is in the output; what is asserted is that it goes on.
 */

t.setTimeout(280_000)

t.test(
  'an authority is replaced: a long flow goes on, who was off comes back, and the root may be killed',
  async (t) => {
    await using mesh = await SeparateProcesses.start(['n0', 'n1', 'n2'], 'agent: { drainSeconds: 1 }\n')
    await mesh.serveEchoes('n1')
    const host = await mesh.addressOf('n0', 'tcp')
    const authority = new Authority(mesh)
    const first = await authority.settled('steady')
    const kept = await EchoedFlow.open(host)
    const repeated = new RepeatedEcho(kept)
    await mesh.killAgent('n2')

    const begun = await authority.run('rotate')
    t.match(begun, { step: 'spreading', signs: first.signs }, 'the old authority signs while the new one is spread')
    await authority.killAndStartRoot()
    const issuing = await authority.settled('issuing', 'edge/n2')
    t.match(issuing, { signs: begun.next, replaced: first.signs }, 'then the new authority signs')
    t.match(
      (await mesh.machines.run('root', 'ca', 'retire')).stderr,
      /1 member has no certificate by the new authority yet: edge\/n2/,
      'the old authority is not retired while a member needs it',
    )
    await authority.killAndStartRoot()

    const fresh = await EchoedFlow.open(host)
    fresh.close()
    await mesh.startAgent('n2')
    await authority.settled('issuing')
    t.equal(
      repeated.longestMs < 5_000,
      true,
      `until here nothing was cut: the longest pause was ${repeated.longestMs} ms`,
    )

    t.match(await authority.run('retire'), { step: 'steady', signs: begun.next }, 'the old authority is retired')
    await authority.killAndStartRoot()
    await authority.settled('steady')
    for (let round = 0; round < 12; round += 1) {
      await kept.says(`after ${round}`)
      const another = await EchoedFlow.open(host)
      another.close()
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    t.equal(kept.ended, undefined, 'the flow goes on')
    t.comment(`${repeated.count} answers, longest pause ${repeated.longestMs} ms`)
    await repeated.stop()
    t.match(
      (await mesh.machines.run('root', 'check')).stdout,
      /mesh: authority: [0-9a-f]{16} signs/,
      'the check tells which authority signs',
    )
    kept.close()
  },
)

/** The authority of the mesh, as its root reports it. */
class Authority {
  readonly #mesh: SeparateProcesses

  constructor(mesh: SeparateProcesses) {
    this.#mesh = mesh
  }

  run(...words: string[]): Promise<AuthorityReport> {
    return this.#mesh.machines.json<AuthorityReport>('root', 'ca', ...words)
  }

  /** Waits for this step, with no member behind but those that are away. */
  async settled(step: AuthorityReport['step'], ...away: string[]): Promise<AuthorityReport> {
    let last: AuthorityReport | undefined
    const isSettled = async () => {
      last = await this.run('status')
      return last.step === step && last.behind.map(({ id }) => id).join() === away.join()
    }
    await eventually(isSettled, `${step}, and behind only: ${away.join()}`, 40_000).catch((error: Error) => {
      throw new Error(`${error.message}: ${JSON.stringify(last)}`)
    })
    return last as AuthorityReport
  }

  async killAndStartRoot(): Promise<void> {
    await this.#mesh.killRoot()
    await this.#mesh.startRoot()
  }
}

/** Says something all the time, and remembers how long an answer took at most. */
class RepeatedEcho {
  readonly #flow: EchoedFlow
  readonly #running: Promise<void>
  #isStopped = false
  longestMs = 0
  count = 0

  constructor(flow: EchoedFlow) {
    this.#flow = flow
    this.#running = this.#run()
    this.#running.catch(() => undefined) // the flow says why it ended
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#running.catch(() => undefined)
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const since = performance.now()
      await this.#flow.says(`repeated ${this.count}`)
      this.longestMs = Math.max(this.longestMs, Math.round(performance.now() - since))
      this.count += 1
    }
  }
}
