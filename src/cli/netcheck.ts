import type { Command } from 'commander'
import { styleText } from 'node:util'
import { isOutward } from '../../proxy/paths/addresses.ts'
import { isMeshError } from '../core/errors.ts'
import { findingsOf } from '../netcheck/findings.ts'
import { localFacts } from '../netcheck/local.ts'
import { tuningOf, tuningScript } from '../netcheck/tuning.ts'
import type { NetcheckReport } from '../client/reports.ts'
import { printable } from '../core/kit/printable.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { isData, printData, printTable } from './output.ts'
import { say } from './terminal.ts'

export function netcheckCommand(program: Command, context: () => Context): void {
  program
    .command('netcheck')
    .description(
      'examine the network of this node: public address, NAT, UDP, IPv6, proxy, relays, possible paths, and what could be better',
    )
    .option('--tune', 'print optional tuning commands without running them')
    .action(async ({ tune = false }: { tune?: boolean }) => {
      const report = await reportOf(context())
      if (tune) {
        const tunings = tuningOf(report.local)
        if (isData(context())) await printData(tunings, context())
        else for (const line of tuningScript(tunings)) say(line)
        return
      }
      if (isData(context())) await printData(report, context())
      else print(report)
      if (report.findings.some(({ ok }) => !ok)) process.exitCode = 1
    })
}

/** Without an agent, what this machine knows by itself. */
async function reportOf(here: Context): Promise<NetcheckReport> {
  try {
    return (await agent(here, '/netcheck')) as NetcheckReport
  } catch (error) {
    if (!isMeshError(error, 'NOT_RUNNING')) throw error
    const local = await localFacts({ isOutward, environment: here.environment })
    return { local, findings: findingsOf({ local }) }
  }
}

function print({ agent, findings }: NetcheckReport): void {
  for (const { check, ok, finding, remedy } of findings) {
    say(`${ok ? styleText('green', 'ok  ') : styleText('red', 'fail')} ${printable(`${check}: ${finding}`)}`)
    if (remedy !== undefined) say(`     ${remedy}`)
  }
  if (agent === undefined || agent.ways.length === 0) return
  say()
  printTable(
    ['a node whose network is', 'is reached'],
    agent.ways.map(({ peer, way }) => [peer, way]),
  )
}
