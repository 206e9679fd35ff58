# Modules: options are declared, definitions found, checked and merged.
lib:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    head
    isFunction
    isPath
    isString
    listToAttrs
    map
    mapAttrs
    removeAttrs
    ;

  isOption = it: it._type or null == "option";

  # Every module that these import, as { options, config }.
  collect =
    arguments:
    concatMap (
      module:
      let
        body = if isPath module || isString module then import module else module;
        called = if isFunction body then body arguments else body;
      in
      [
        {
          options = called.options or { };
          freeform = called.freeformType or null;
          config =
            called.config or (removeAttrs called [
              "freeformType"
              "options"
              "_file"
              "imports"
              "key"
            ]);
        }
      ]
      ++ collect arguments (called.imports or [ ])
    );

  mergeTrees = foldl' (
    a: b:
    a
    // mapAttrs (
      name: value:
      if a ? ${name} && !isOption value then
        mergeTrees [
          a.${name}
          value
        ]
      else
        value
    ) b
  ) { };

  # A definition without its conditions: [ { priority, value } ].
  discharge =
    priority: value:
    if value._type or null == "if" then
      if value.condition then discharge priority value.content else [ ]
    else if value._type or null == "merge" then
      concatMap (discharge priority) value.contents
    else if value._type or null == "override" then
      discharge value.priority value.content
    else
      [ { inherit priority value; } ];

  # Plain sets, with their conditions moved to the attributes: a condition may depend on other options,
  # and must not be asked before an option's own value is.
  pushDown =
    value:
    if value._type or null == "if" then
      map (mapAttrs (_: lib.mkIf value.condition)) (pushDown value.content)
    else if value._type or null == "merge" then
      concatMap pushDown value.contents
    else if value._type or null == "override" then
      map (mapAttrs (_: lib.mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  below =
    name:
    concatMap ({ priority, value }: if value ? ${name} then discharge priority value.${name} else [ ]);

  resolve =
    where: type: definitions:
    let
      first = foldl' (a: b: if a < b.priority then a else b.priority) 9999 definitions;
      values = map (it: it.value) (filter (it: it.priority == first) definitions);
      wrong = filter (it: !type.check it) values;
    in
    if wrong != [ ] then
      throw "A definition for option `${where}' is not of type `${type.description}': ${builtins.toJSON (head wrong)}"
    else if type ? submodule then
      (lib.evalModules {
        modules = [
          type.submodule
        ]
        ++ map (it: { config = lib.mkOverride it.priority it.value; }) definitions;
      }).config
    else if type ? attributes then
      let
        names = attrNames (foldl' (a: b: a // b.value) { } definitions);
        found = filter (it: it.definitions != [ ]) (
          map (name: {
            inherit name;
            definitions = below name definitions;
          }) names
        );
      in
      listToAttrs (
        map (it: {
          inherit (it) name;
          value = resolve "${where}.${it.name}" type.attributes it.definitions;
        }) found
      )
    else
      type.merge where values;

  # `freeform`: the type of what no option declares, or null.
  evaluate =
    freeform: where: options: definitions:
    if isOption options then
      let
        # The least priority of all.
        default = if options ? default then discharge 1500 options.default else [ ];
        defined = concatMap (discharge 100) definitions;
        all = if defined == [ ] then default else defined;
      in
      if all == [ ] then
        throw "The option `${where}' is used but not defined"
      else
        resolve where options.type all
    else
      let
        sets = concatMap pushDown definitions;
        given = concatMap attrNames sets;
        unknown = filter (name: !(options ? ${name})) given;
        of = name: concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets;
        free = listToAttrs (
          map (name: {
            inherit name;
            value = resolve (path name) freeform (concatMap (discharge 100) (of name));
          }) unknown
        );
        path = name: if where == "" then name else "${where}.${name}";
      in
      if unknown != [ ] && freeform == null then
        throw "The option `${path (head unknown)}' does not exist"
      else
        free // mapAttrs (name: option: evaluate null (path name) option (of name)) options;
in
{
  modules,
  specialArgs ? { },
}:
let
  arguments = specialArgs // {
    inherit lib config options;
  };
  collected = collect arguments modules;
  options = mergeTrees (map (it: it.options) collected);
  freeform = foldl' (a: b: if b.freeform == null then a else b.freeform) null collected;
  config = evaluate freeform "" options (map (it: it.config) collected);
in
{
  inherit config options;
}
