import { useMemo, useState } from 'preact/hooks'
import { Badge, Meter } from '../parts/badge.tsx'
import { Name } from '../parts/name.tsx'
import { Search } from '../parts/search.tsx'
import { type Column, Table } from '../parts/table.tsx'
import type { Mesh } from '../model/mesh.ts'
import { certificateOf, clusterView, nodeViews, shownNodes, type NodeView } from '../model/nodes.ts'
import { hashOf } from '../model/route.ts'
import { counted, memoryText } from '../model/text.ts'
import { NodePanel } from './node.tsx'

const COLUMNS: readonly Column<NodeView>[] = [
  { head: 'Node', width: 'minmax(130px, 1.4fr)', cell: ({ name, cluster }) => <Name name={name} within={cluster} /> },
  { head: 'Condition', width: 'minmax(104px, .7fr)', cell: ({ tone, word }) => <Badge tone={tone}>{word}</Badge> },
  { head: 'Instances', width: '78px', isNumber: true, cell: ({ row }) => row.instances },
  {
    head: 'Memory taken',
    width: 'minmax(120px, .8fr)',
    isExtra: true,
    cell: ({ row, memoryTaken }) => <Meter share={memoryTaken} text={freeText(row.freeMemoryMb)} />,
  },
  {
    head: 'CPUs taken',
    width: 'minmax(120px, .8fr)',
    isExtra: true,
    cell: ({ row, cpuTaken }) => (
      <Meter share={cpuTaken} text={row.freeVcpus === undefined ? '–' : `${row.freeVcpus} free`} />
    ),
  },
  { head: 'Version', width: '84px', isExtra: true, cell: ({ row }) => row.version ?? '–' },
  {
    head: 'Certificate ends',
    width: '120px',
    isExtra: true,
    cell: ({ certificate: { tone, text } }) =>
      tone === 'good' || tone === 'idle' ? text : <Badge tone={tone}>{text}</Badge>,
  },
  {
    head: 'Notes',
    width: 'minmax(120px, 1.6fr)',
    isExtra: true,
    cell: ({ notes }) => <span class="two muted">{notes.join('; ')}</span>,
  },
]

function freeText(mb: number | undefined): string {
  return mb === undefined ? '–' : `${memoryText(mb)} free`
}

export function Nodes({ mesh, open, now }: { mesh: Mesh; open: string | undefined; now: number }) {
  const { nodes, clusters } = mesh
  const [typed, setTyped] = useState('')
  const seconds = Math.floor(now / 10_000) // the words of ages need no more
  const views = useMemo(() => nodeViews(nodes, now), [nodes, seconds])
  const shown = useMemo(() => shownNodes(views, typed), [views, typed])
  const opened = views.find(({ row }) => row.id === open)
  return (
    <div class={open === undefined ? 'view' : 'view beside'}>
      <div class="list">
        <div class="tools">
          <p class="title" aria-hidden="true">
            Nodes
          </p>
          <Search label="Find a node, label or address" value={typed} change={setTyped} />
          <p class="muted">
            {counted(nodes.length, 'node')} in {counted(clusters.length, 'cluster')}
          </p>
        </div>
        <ul class="cards" aria-label="Clusters">
          {clusters.map(clusterView).map(({ row, tone, memoryTaken, cpuTaken }) => (
            <li key={row.name}>
              <button type="button" class="card" onClick={() => setTyped(`${row.name}/`)}>
                <span class="cardhead">
                  <b>{row.name}</b>
                  <Badge tone={tone}>{row.condition}</Badge>
                </span>
                <span class="muted">
                  {counted(row.nodes, 'node')} · {counted(row.instances, 'instance')}
                  {row.version === undefined ? '' : ` · ${row.version}`}
                </span>
                <Meter share={memoryTaken} text={freeText(row.free?.memoryMb)} />
                <Meter share={cpuTaken} text={row.free?.vcpus === undefined ? '–' : `${row.free.vcpus} CPUs free`} />
                <span class="muted">certificate ends {certificateOf(row.certificateUntil, now).text}</span>
              </button>
            </li>
          ))}
        </ul>
        <Table
          label="Nodes"
          columns={COLUMNS}
          rows={shown}
          keyOf={({ row }) => row.id}
          linkOf={({ row }) => hashOf({ view: 'nodes', open: row.id })}
          rowPx={56}
          chosen={open}
          isNarrow={open !== undefined}
          empty={
            nodes.length === 0 ? (
              <>
                <b>No nodes yet.</b> <code>hedgerow token create --role node</code> makes a token with which one joins.
              </>
            ) : (
              'No node fits what was typed.'
            )
          }
        />
      </div>
      {open === undefined ? undefined : <NodePanel id={open} view={opened} mesh={mesh} now={now} />}
    </div>
  )
}
