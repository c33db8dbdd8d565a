import sortedBtree from 'sorted-btree'

// sorted-btree is CommonJS: Node takes its whole exports for the default export.
const BTree = sortedBtree.default

/** String keys ascending by code unit. */
export type OrderedMap<V> = InstanceType<typeof sortedBtree.default<string, V>>

export function orderedMap<V>(): OrderedMap<V> {
  return new BTree<string, V>(undefined, (a, b) => (a < b ? -1 : a > b ? 1 : 0))
}
