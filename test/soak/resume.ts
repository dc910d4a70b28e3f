import { parseArgs } from 'node:util'
import { soak } from './soak.ts'

/** `npm run soak -- --minutes 3 --seed 7 --flows 300`: exits 1 when a byte, an END or a flow is not as it must be. */
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '3' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    flows: { type: 'string', default: '300' },
    outage: { type: 'string', default: '9' },
  },
})
const seed = Number(values.seed)
console.log(`seed ${seed}, ${values.minutes} minutes, ${values.flows} flows at a time, outages to ${values.outage} s`)
const report = await soak({
  seconds: Number(values.minutes) * 60,
  seed,
  flows: Number(values.flows),
  outageMs: Number(values.outage) * 1000,
  flowBytes: 4_000_000,
})
const { faults, ...figures } = report
console.log(`flows            ${figures.flows}`)
console.log(`kills            ${figures.kills} (${figures.outages} outages of all paths)`)
console.log(`bytes checked    ${figures.megabytes} MB`)
console.log(`resumed sessions ${figures.resumes}, moved streams ${figures.moved}`)
console.log(`longest pause after the path was back  ${figures.longestPauseMs} ms`)
console.log(`retained, at most                      ${figures.retainedPeakMiB} MiB a session`)
for (const [when, { rssMiB, descriptors, streams }] of Object.entries(figures.footprint))
  console.log(`${when.padEnd(6)}           RSS ${rssMiB} MiB, ${descriptors} descriptors, ${streams} streams`)
for (const fault of faults.slice(0, 20)) console.log(`FAULT ${fault}`)
console.log(JSON.stringify({ seed, ...figures, faults: faults.length }))
process.exitCode = faults.length > 0 || figures.resumes === 0 ? 1 : 0
